// The left side: slides, what cells are coloured by, and which are shown.

import type { Column, Run } from "./api";
import { thumbnailAddress } from "./api";
import { type Choice, type Range, type SlideCells, ramp, whole } from "./cells";
import { byId, debounced, el, swatch, thousands } from "./dom";
import { format, isProbability, label, PLACES, unit } from "./names";

const STEPS = 200; // of a range's sliders
const BARS = 50; // of its histogram

/** List the slides; returns what shows their pictures, for which the server opens each. */
export function listSlides(run: Run, open: (place: number) => void): () => void {
  const pictures = run.slides.map(() => el("img", { alt: "", loading: "lazy" }));
  byId("slides").replaceChildren(
    ...run.slides.map((slide, place) => {
      const picture = pictures[place];
      picture.addEventListener("error", () => picture.classList.add("none"));
      return el(
        "button",
        { type: "button", class: "slide", title: slide.name, onclick: () => open(place) },
        el("span", { class: "picture" }, picture),
        el(
          "span",
          { class: "text" },
          el("span", { class: "name" }, slide.name),
          el("span", { class: "faint" }, `${thousands(slide.count)} cells`),
        ),
      );
    }),
  );
  return () => pictures.forEach((picture, place) => (picture.src ||= thumbnailAddress(place)));
}

export function markSlide(place: number): void {
  [...byId("slides").children].forEach((child, i) => {
    child.classList.toggle("current", i === place);
    child.setAttribute("aria-current", String(i === place));
    if (i === place) child.scrollIntoView({ block: "nearest" });
  });
}

/** Colour, legend and filters of the slide that is shown; `changed` after each change of the choice. */
export class Sidebar {
  constructor(
    private readonly choice: Choice,
    private readonly changed: () => Promise<void>,
  ) {}

  /** Show the columns of a slide. */
  async open(cells: SlideCells): Promise<void> {
    const groups: [string, Column[]][] = [
      ["Groups", cells.slide.columns.filter((column) => column.kind === "category")],
      ["Certainty", cells.slide.columns.filter(({ name }) => certainty(name))],
      ["Measurements", cells.slide.columns.filter((column) => column.kind === "number" && measured(column.name))],
    ];
    const options = () =>
      groups
        .filter(([, columns]) => columns.length)
        .map(([name, columns]) =>
          el("optgroup", { label: name }, ...columns.map((one) => el("option", { value: one.name }, label(one.name)))),
        );
    const colour = byId<HTMLSelectElement>("colour");
    colour.replaceChildren(...options());
    if (!cells.column(this.choice.colour)) this.choice.colour = cells.slide.columns[0].name;
    colour.value = this.choice.colour;
    colour.onchange = () => {
      this.choice.colour = colour.value;
      void this.changed();
    };
    const add = byId<HTMLSelectElement>("add-filter");
    add.replaceChildren(el("option", { value: "" }, "Add a filter …"), ...options().slice(1));
    add.onchange = async () => {
      const name = add.value;
      add.value = "";
      if (!name || this.choice.ranges.has(name)) return;
      this.choice.ranges.set(name, whole(await cells.values(name)));
      await this.filters(cells);
    };
    await this.filters(cells);
  }

  /** The legend, after colours were applied. */
  legend(cells: SlideCells): void {
    const column = cells.column(this.choice.colour)!;
    byId("shown").textContent =
      cells.shown === cells.slide.count
        ? `${thousands(cells.shown)} cells`
        : `${thousands(cells.shown)} of ${thousands(cells.slide.count)} cells`;
    if (column.kind === "number") {
      byId("legend").replaceChildren(scaleOf(column.name, cells.scale));
      return;
    }
    const hidden = this.choice.hidden.get(column.name) ?? new Set<string>();
    const rows = column.names.map((name, i) => {
      const box = el("input", {
        type: "checkbox",
        checked: !hidden.has(name),
        onchange: () => this.toggle(column.name, name),
      });
      const only = el("button", { type: "button", class: "only", title: `Show ${name} only` }, "only");
      only.addEventListener("click", () => {
        const others = column.names.filter((other) => other !== name);
        const already = others.every((other) => hidden.has(other)) && !hidden.has(name);
        this.choice.hidden.set(column.name, new Set(already ? [] : others));
        void this.changed();
      });
      return el(
        "div",
        { class: "entry" },
        el("label", {}, box, swatch(column.colours[i]), el("span", { class: "name" }, name)),
        only,
        el("span", { class: "count" }, thousands(cells.counts[i])),
      );
    });
    byId("legend").replaceChildren(...rows);
  }

  /** Hide or show the cells of a name. */
  toggle(column: string, name: string): void {
    const hidden = this.choice.hidden.get(column) ?? new Set<string>();
    if (!hidden.delete(name)) hidden.add(name);
    this.choice.hidden.set(column, hidden);
    void this.changed();
  }

  private async filters(cells: SlideCells): Promise<void> {
    const names = [...this.choice.ranges.keys()].filter((name) => cells.column(name));
    const rows = await Promise.all(names.map((name) => this.filter(cells, name)));
    byId("filters").replaceChildren(...rows);
  }

  private async filter(cells: SlideCells, name: string): Promise<HTMLElement> {
    const values = await cells.values(name);
    const all = whole(values);
    const range = this.choice.ranges.get(name)!;
    const step = (all.high - all.low) / STEPS;
    const at = (value: number) => Math.round((value - all.low) / step);
    const slider = (value: number, what: string) =>
      el("input", { type: "range", min: 0, max: STEPS, value: at(value), "aria-label": `${label(name)}, ${what}` });
    const low = slider(range.low, "at least");
    const high = slider(range.high, "at most");
    const text = el("span", { class: "faint" });
    const bars = histogram(values, all);
    const show = () => {
      const suffix = unit(name) ? ` ${unit(name)}` : "";
      text.textContent = `${format(name, range.low, false)} – ${format(name, range.high, false)}${suffix}`;
      bars.select(Number(low.value) / STEPS, Number(high.value) / STEPS);
    };
    const apply = debounced(60, () => void this.changed());
    const moved = (which: HTMLInputElement) => () => {
      if (Number(low.value) > Number(high.value)) which.value = which === low ? high.value : low.value;
      // The ends stand for all there is, whatever rounding does.
      range.low = Number(low.value) === 0 ? all.low : all.low + Number(low.value) * step;
      range.high = Number(high.value) === STEPS ? all.high : all.low + Number(high.value) * step;
      show();
      apply();
    };
    low.addEventListener("input", moved(low));
    high.addEventListener("input", moved(high));
    const close = el("button", { type: "button", class: "close", title: "Remove this filter" }, "×");
    const row = el(
      "div",
      { class: "filter" },
      el("div", { class: "head" }, el("span", { class: "name" }, label(name)), text, close),
      el("div", { class: "range" }, bars.canvas, low, high),
    );
    close.addEventListener("click", () => {
      this.choice.ranges.delete(name);
      row.remove();
      void this.changed();
    });
    show();
    return row;
  }
}

const certainty = (name: string) => isProbability(name) || ["score", "type_score", "taught_type_score", "familiarity"].includes(name);
const measured = (name: string) => !certainty(name) && !PLACES.includes(name);

function scaleOf(name: string, { low, high }: Range): HTMLElement {
  const canvas = el("canvas", { width: 240, height: 1, class: "ramp" });
  const context = canvas.getContext("2d")!;
  ramp(240).forEach((colour, x) => {
    context.fillStyle = colour;
    context.fillRect(x, 0, 1, 1);
  });
  const ends = [low, (low + high) / 2, high].map((value) => el("span", {}, format(name, value, false)));
  const suffix = unit(name);
  return el("div", { class: "scale-of" }, canvas, el("div", { class: "ends faint" }, ...ends), suffix ? el("div", { class: "faint unit" }, suffix) : null);
}

function histogram(values: ArrayLike<number>, { low, high }: Range) {
  const counts = new Array<number>(BARS).fill(0);
  for (let i = 0; i < values.length; i++) {
    const bar = Math.min(BARS - 1, Math.floor(((values[i] - low) / (high - low)) * BARS));
    if (bar >= 0) counts[bar]++;
  }
  const most = Math.max(...counts, 1);
  const canvas = el("canvas", { width: 5 * BARS, height: 60, class: "histogram" });
  const context = canvas.getContext("2d")!;
  const select = (from: number, to: number) => {
    context.clearRect(0, 0, canvas.width, canvas.height);
    counts.forEach((count, bar) => {
      const middle = (bar + 0.5) / BARS;
      context.fillStyle = middle >= from && middle <= to ? "#7a8599" : "#dcdfe6";
      const height = count ? Math.max(1, (count / most) * 58) : 0;
      context.fillRect(5 * bar + 0.5, 60 - height, 4, height);
    });
  };
  return { canvas, select };
}
