// What the server answers (src/celldetr/view/app.py). Addresses are relative: the token stays in the page's own.

export interface Listed {
  name: string;
  count: number;
}
export interface Run {
  model: string | null;
  cells: number;
  slides: Listed[];
}
export interface Category {
  name: string;
  kind: "category";
  names: string[];
  colours: string[];
}
export interface Numeric {
  name: string;
  kind: "number";
}
export type Column = Category | Numeric;
/** Lengths in micrometres, or in pixels where the slide is not `physical`. */
export interface Slide {
  name: string;
  width: number;
  height: number;
  finest: number;
  levels: number;
  tile: number;
  square: number;
  physical: boolean;
  missing: string | null;
  count: number;
  columns: Column[];
}
export interface Cell {
  row: number;
  name: string;
  x: number;
  y: number;
  values: Record<string, number | string | null>;
  probabilities: Record<string, number>;
  outline: [number, number][];
}
export interface Relative {
  slide: number;
  row: number;
  cell_id: number;
  similarity: number;
  x: number;
  y: number;
  type: string;
  type_score: number;
}
export type Scope = "all" | "here" | "elsewhere";
/** Outlines of the cells of a square: rows of the table, one past the last point of each, points x, y in um. */
export interface Square {
  rows: Uint32Array;
  ends: Uint32Array;
  points: Float32Array;
}

async function get(path: string, signal?: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { signal });
  } catch (error) {
    if ((error as Error).name === "AbortError") throw error;
    throw new Error("The server does not answer. Start celldetr view again, and open the new address.");
  }
  if (!response.ok) {
    const text = await response.text();
    let message = text;
    try {
      message = JSON.parse(text).error ?? text;
    } catch {
      // not JSON: the text itself says what is wrong
    }
    throw new Error(message);
  }
  return response;
}

const json = async (path: string, signal?: AbortSignal) => (await get(path, signal)).json();
const bytes = async (path: string, signal?: AbortSignal) => (await get(path, signal)).arrayBuffer();

export const getRun = (): Promise<Run> => json("run");
/** Have the server read the embeddings. */
export const readEmbeddings = (): Promise<{ held: number; of: number }> => json("embeddings");
export const getSlide = (slide: number): Promise<Slide> => json(`slides/${slide}`);
export const getCell = (slide: number, row: number, signal: AbortSignal): Promise<Cell> =>
  json(`slides/${slide}/cells/${row}`, signal);
export const getKin = (slide: number, row: number, scope: Scope, signal: AbortSignal): Promise<Relative[]> =>
  json(`slides/${slide}/cells/${row}/kin/${scope}`, signal);
export const getCentres = async (slide: number) => new Float32Array(await bytes(`slides/${slide}/centres`));

export async function getColumn(slide: number, column: Column): Promise<Float32Array | Uint16Array> {
  const buffer = await bytes(`slides/${slide}/column?name=${encodeURIComponent(column.name)}`);
  return column.kind === "number" ? new Float32Array(buffer) : new Uint16Array(buffer);
}

export async function getSquare(slide: number, column: number, row: number): Promise<Square> {
  const buffer = await bytes(`slides/${slide}/outlines/${column}/${row}`);
  const [cells, points] = new Uint32Array(buffer, 0, 2);
  return {
    rows: new Uint32Array(buffer, 8, cells),
    ends: new Uint32Array(buffer, 8 + 4 * cells, cells),
    points: new Float32Array(buffer, 8 + 8 * cells, 2 * points),
  };
}

export const tileAddress = (slide: number, level: number, column: number, row: number) =>
  `slides/${slide}/tiles/${level}/${column}/${row}`;
export const thumbnailAddress = (slide: number) => `slides/${slide}/thumbnail`;
export const cropAddress = (slide: number, row: number, side: number) => `slides/${slide}/cells/${row}/crop/${side}`;
