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

/** Numbers of types, in the order of the list, are what cells are typed by. */
export interface TaughtType {
  type: number;
  name: string;
  colour: string;
  key: string;
  labels: number;
}
export interface Lesson {
  revision: number;
  types: number[];
  macro_f1: number | null;
  f1: (number | null)[];
  confusion: number[][];
}
export interface Taught {
  revision: number;
  types: TaughtType[];
  struck: number;
  added: number;
  lesson: Lesson | null;
}
/** What was said of the cells of a slide; boxes are xyxy in um. */
export interface Marks {
  rows: number[];
  types: number[];
  struck: number[];
  added: { number: number; box: [number, number, number, number]; type: number | null }[];
}
export interface CellName {
  slide: number;
  row: number;
}

async function get(path: string, signal?: AbortSignal, sent?: unknown): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, sent === undefined ? { signal } : { signal, method: "POST", body: JSON.stringify(sent) });
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
/** The first column, which is what cells are typed by. */
export const getTypes = async (slide: number) => new Uint16Array(await bytes(`slides/${slide}/column`));
export const getCentres = async (slide: number) => new Float32Array(await bytes(`slides/${slide}/centres`));

export const getTaught = (): Promise<Taught> => json("teach");
export const getMarks = (slide: number): Promise<Marks> => json(`slides/${slide}/marks`);
export const getTyped = async (slide: number) => new Uint16Array(await bytes(`slides/${slide}/typed`));
export const getProposals = (): Promise<CellName[]> => json("teach/proposals");
const post = async (path: string, sent: unknown) => (await get(path, undefined, sent)).json();
export const say = (said: unknown): Promise<Taught> => post("teach", said);
export const learn = (): Promise<Taught> => post("teach/learn", {});
export const saveHead = (): Promise<{ folder: string; command: string }> => post("teach/save", {});

/** Make the embedding map, or go on: how many cells have their place. */
export const makeMap = (): Promise<{ done: number; of: number }> => json("map");
export const getPoints = async (slide: number) => new Float32Array(await bytes(`slides/${slide}/map`));

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
