// The cells of the slide that is shown: centres, columns, and what colours and filters make of them.

import { type Column, getCentres, getColumn, getSlide, getSquare, getTypes, type Slide, type Square, type TaughtType } from "./api";
import { inside, type Polygon } from "./lasso";
import { isProbability } from "./names";

export const HIDDEN = 0xffff;
export const TAUGHT = "taught"; // the column of types of one's own
const SHADES = 64; // colours of a numeric column
const MISSING = "#b9b9c0";

// Cividis (Nunez, Anderton, Renslow 2018): dark blue to yellow, read alike with and without colour vision.
const RAMP = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];

export interface Range {
  low: number;
  high: number;
}
/** What the user has chosen; kept from slide to slide. */
export interface Choice {
  colour: string;
  hidden: Map<string, Set<string>>; // names of a category that are not shown
  ranges: Map<string, Range>; // of numeric columns
}

/** What is needed of a slide to draw it, all asked for at once. */
export const ask = (place: number) => ({ slide: getSlide(place), centres: getCentres(place), types: getTypes(place) });
export type Asked = ReturnType<typeof ask>;

export class SlideCells {
  /** Index into `palette` of each cell; `HIDDEN` where a filter leaves it out. */
  shade: Uint16Array;
  palette: string[] = [MISSING];
  /** Whether colours are steps of a scale. */
  ordered = false;
  shown = 0;
  /** Of each colour, among cells that pass the other filters. */
  counts: number[] = [];
  scale: Range = { low: 0, high: 1 };
  /** 1 of each cell that is marked; null: none is. */
  marked: Uint8Array | null = null;
  private columns = new Map<string, Float32Array | Uint16Array>();
  private squares = new Map<string, Square | "coming">();

  private constructor(
    readonly place: number,
    readonly slide: Slide,
    readonly centres: Float32Array,
  ) {
    this.shade = new Uint16Array(slide.count);
  }

  static async load(place: number, asked: Asked): Promise<SlideCells> {
    const slide = await asked.slide;
    const cells = new SlideCells(place, slide, await asked.centres);
    cells.columns.set(slide.columns[0].name, await asked.types);
    return cells;
  }

  /** Colour by types that were taught; null: no longer. */
  setTaught(types: TaughtType[], typed: Uint16Array | null): void {
    this.slide.columns = this.slide.columns.filter(({ name }) => name !== TAUGHT);
    if (!typed) return;
    const names = types.map(({ name }) => name);
    this.slide.columns.unshift({ name: TAUGHT, kind: "category", names, colours: types.map(({ colour }) => colour) });
    this.columns.set(TAUGHT, typed);
  }

  /** Name and colour of the taught type of a cell, where there is one. */
  taughtOf(row: number): [string, string] | null {
    const column = this.column(TAUGHT);
    const code = this.columns.get(TAUGHT)?.[row] ?? -1;
    return column?.kind === "category" && column.names[code] ? [column.names[code], column.colours[code]] : null;
  }

  /** Mark the shown cells whose points lie in a polygon; how many. */
  mark(points: Float32Array, polygon: Polygon): number {
    const marked = inside(points, polygon);
    let count = 0;
    for (let i = 0; i < marked.length; i++) {
      if (this.shade[i] === HIDDEN) marked[i] = 0;
      count += marked[i];
    }
    this.marked = count ? marked : null;
    return count;
  }

  column(name: string): Column | undefined {
    return this.slide.columns.find((column) => column.name === name);
  }

  /** Values of a column, fetched once. */
  async values(name: string): Promise<Float32Array | Uint16Array> {
    let values = this.columns.get(name);
    if (!values) {
      values = await getColumn(this.place, this.column(name)!);
      this.columns.set(name, values);
    }
    return values;
  }

  /** Colour and filter all cells. */
  async apply(choice: Choice): Promise<void> {
    const colour = this.column(choice.colour) ?? this.slide.columns[0];
    const values = await this.values(colour.name);
    const passes: ((i: number) => boolean)[] = [];
    for (const [name, { low, high }] of choice.ranges) {
      if (this.column(name)?.kind !== "number") continue;
      const numbers = await this.values(name);
      passes.push((i) => numbers[i] >= low && numbers[i] <= high);
    }
    let own: ((i: number) => boolean) | undefined; // the filter by the colour itself, for the counts of the legend
    for (const [name, hidden] of choice.hidden) {
      const category = this.column(name);
      if (category?.kind !== "category" || !hidden.size) continue;
      const codes = await this.values(name);
      const out = category.names.map((one) => hidden.has(one));
      const pass = (i: number) => !out[codes[i]];
      if (name === colour.name) own = pass;
      else passes.push(pass);
    }
    const count = this.slide.count;
    const shade = new Uint16Array(count);
    this.ordered = colour.kind === "number";
    if (colour.kind === "category") {
      this.palette = [...colour.colours, MISSING];
      for (let i = 0; i < count; i++) shade[i] = Math.min(values[i], colour.names.length);
    } else {
      this.scale = choice.ranges.get(colour.name) ?? robust(values, colour.name);
      this.palette = [...ramp(SHADES), MISSING];
      const { low, high } = this.scale;
      const factor = SHADES / Math.max(high - low, 1e-12);
      for (let i = 0; i < count; i++) {
        const value = values[i];
        const step = Math.floor((value - low) * factor);
        shade[i] = value === value ? (step < 0 ? 0 : step >= SHADES ? SHADES - 1 : step) : SHADES;
      }
    }
    this.counts = new Array(this.palette.length).fill(0);
    let shown = 0;
    for (let i = 0; i < count; i++) {
      let pass = true;
      for (let f = 0; f < passes.length && pass; f++) pass = passes[f](i);
      if (pass) this.counts[shade[i]]++;
      if (!pass || (own && !own(i))) shade[i] = HIDDEN;
      else shown++;
    }
    this.shade = shade;
    this.shown = shown;
  }

  /** The outlines of a square, if they are here; else they are fetched, and `arrived` is called. */
  square(column: number, row: number, arrived: () => void): Square | undefined {
    const key = `${column}/${row}`;
    const held = this.squares.get(key);
    if (held === "coming") return undefined;
    if (held) {
      this.squares.delete(key); // the oldest are dropped first
      this.squares.set(key, held);
      return held;
    }
    this.squares.set(key, "coming");
    if (this.squares.size > 300) this.squares.delete(this.squares.keys().next().value!);
    getSquare(this.place, column, row).then(
      (square) => {
        this.squares.set(key, square);
        arrived();
      },
      () => this.squares.delete(key),
    );
    return undefined;
  }

  /** Row of the shown cell nearest to a point, at most `within` away; -1 if there is none. */
  nearest(x: number, y: number, within: number): number {
    let best = within * within;
    let found = -1;
    for (let i = 0; i < this.shade.length; i++) {
      const dx = this.centres[2 * i] - x;
      const dy = this.centres[2 * i + 1] - y;
      const distance = dx * dx + dy * dy;
      if (distance < best && this.shade[i] !== HIDDEN) {
        best = distance;
        found = i;
      }
    }
    return found;
  }
}

/** Low and high end of what a column's colours span: nearly all values, or all of a probability. */
export function robust(values: ArrayLike<number>, name: string): Range {
  if (isProbability(name)) return { low: 0, high: 1 };
  const step = Math.max(1, Math.floor(values.length / 20_000));
  const some: number[] = [];
  for (let i = 0; i < values.length; i += step) if (Number.isFinite(values[i])) some.push(values[i]);
  if (!some.length) return { low: 0, high: 1 };
  some.sort((a, b) => a - b);
  const low = some[Math.floor(0.01 * (some.length - 1))];
  const high = some[Math.ceil(0.99 * (some.length - 1))];
  return high > low ? { low, high } : { low, high: low + 1 };
}

/** All of a column's values, rounded outwards. */
export function whole(values: ArrayLike<number>): Range {
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < values.length; i++) {
    if (values[i] < low) low = values[i];
    if (values[i] > high) high = values[i];
  }
  return low < high ? { low, high } : { low: Number.isFinite(low) ? low : 0, high: Number.isFinite(low) ? low + 1 : 1 };
}

export function ramp(steps: number): string[] {
  return Array.from({ length: steps }, (_, i) => {
    const at = (i / (steps - 1)) * (RAMP.length - 1);
    const left = Math.min(Math.floor(at), RAMP.length - 2);
    const mix = rgb(RAMP[left]).map((v, c) => Math.round(v + (at - left) * (rgb(RAMP[left + 1])[c] - v)));
    return `#${mix.map((v) => v.toString(16).padStart(2, "0")).join("")}`;
  });
}

export function rgb(colour: string): [number, number, number] {
  const value = parseInt(colour.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}
