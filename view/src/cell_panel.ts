// The right side: one cell, and the cells most like it.

import { type Cell, type CellName, cropAddress, getKin, type Relative, type Run, type Scope } from "./api";
import type { SlideCells } from "./cells";
import { byId, el, svg, swatch } from "./dom";
import { format, label } from "./names";

const FIELD_UM = 32; // side of what a crop shows (report.crops.FIELD_UM)
const SCOPES: [Scope, string][] = [
  ["all", "All slides"],
  ["here", "This slide"],
  ["elsewhere", "Other slides"],
];
const IN_HEAD = ["cell_id", "type", "cluster", "x_px", "y_px", "w_px", "h_px", "score", "type_score", "familiarity"];

export class CellPanel {
  private scope: Scope = "all";
  private asking: AbortController | null = null;

  /** Kin that are labelled with the cell. */
  ticked: CellName[] = [];

  /** `go`: to one of the kin; `tick`: kin were ticked, or no longer. */
  constructor(
    private readonly run: Run,
    private readonly go: (slide: number, row: number) => void,
    private readonly tick: () => void,
  ) {}

  close(): void {
    this.asking?.abort();
    this.ticked = [];
    byId("cell").replaceChildren(el("p", { class: "faint empty" }, "Click a cell on the slide or on the map."));
  }

  /** Say which of the user's own types the cell has: name and colour. */
  setTaught(type: [string, string] | null): void {
    document.getElementById("taught")?.replaceChildren(...(type ? ["My types: ", swatch(type[1]), type[0]] : []));
  }

  open(cells: SlideCells, cell: Cell, back: (() => void) | null): void {
    this.ticked = [];
    const type = String(cell.values.type);
    byId("cell").replaceChildren(
      el(
        "header",
        {},
        el("h2", {}, swatch(typeColour(cells, type)), type),
        back ? el("button", { type: "button", title: "The cell before (B)", onclick: back }, "Back") : null,
      ),
      el("p", { id: "taught" }),
      el("p", { class: "faint identity" }, cell.name),
      cells.slide.missing ? el("p", { class: "note" }, "No picture: the slide file is not open.") : picture(cells, cell),
      probabilities(cells, cell),
      facts(cell),
      measurements(cell),
      this.kin(cells, cell),
    );
    byId("cell").scrollTop = 0;
  }

  private kin(cells: SlideCells, cell: Cell): HTMLElement {
    const grid = el("div", { class: "kin" });
    const all = el("button", { type: "button", class: "tick-all", title: "Label them together with the cell (A)" }, "Tick all");
    all.onclick = () => {
      const boxes = [...grid.querySelectorAll<HTMLInputElement>("input")];
      const on = boxes.some((box) => !box.checked);
      boxes.forEach((box) => box.checked !== on && box.click());
    };
    const ask = () => {
      this.asking?.abort();
      const asking = (this.asking = new AbortController());
      grid.replaceChildren(el("p", { class: "faint" }, "Comparing with all cells …"));
      getKin(cells.place, cell.row, this.scope, asking.signal).then(
        (kin) => {
          this.ticked = [];
          this.tick();
          grid.replaceChildren(...this.pictures(cells, kin));
        },
        (error: Error) => {
          if (error.name !== "AbortError") grid.replaceChildren(el("p", { class: "note" }, error.message));
        },
      );
    };
    const scopes = SCOPES.map(([scope, text]) => {
      const button = el("button", { type: "button", "aria-pressed": String(scope === this.scope) }, text);
      button.addEventListener("click", () => {
        this.scope = scope;
        scopes.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
        ask();
      });
      return button;
    });
    ask();
    const several = this.run.slides.length > 1;
    return el(
      "section",
      {},
      el("div", { class: "row" }, el("h3", {}, "Cells most like it"), all),
      several ? el("div", { class: "scopes", role: "group" }, ...scopes) : null,
      grid,
    );
  }

  private pictures(cells: SlideCells, kin: Relative[]): HTMLElement[] {
    if (!kin.length) return [el("p", { class: "faint" }, "There are no others.")];
    return kin.map((one) => {
      const slide = this.run.slides[one.slide].name;
      const image = el("img", { src: cropAddress(one.slide, one.row, 144), alt: "", width: 72, height: 72 });
      image.addEventListener("error", () => image.classList.add("none"));
      const text = el("span", { class: "faint" }, swatch(typeColour(cells, one.type)), one.similarity.toFixed(2));
      const elsewhere = one.slide === cells.place ? null : el("span", { class: "faint where" }, slide);
      const box = el("input", { type: "checkbox", "aria-label": `Label ${slide}, cell ${one.cell_id} too`, title: "Label it together with the cell" });
      box.onchange = () => {
        const others = this.ticked.filter((cell) => cell.slide !== one.slide || cell.row !== one.row);
        this.ticked = box.checked ? [...others, { slide: one.slide, row: one.row }] : others;
        this.tick();
      };
      const picture = el(
        "button",
        {
          type: "button",
          title: `${one.type}, ${one.type_score.toFixed(2)}\nlikeness ${one.similarity.toFixed(3)}\n${slide}, cell ${one.cell_id}`,
          onclick: () => this.go(one.slide, one.row),
        },
        image,
        text,
        elsewhere,
      );
      return el("div", { class: "relative" }, picture, box);
    });
  }
}

function typeColour(cells: SlideCells, type: string): string {
  const column = cells.column("type");
  const at = column?.kind === "category" ? column.names.indexOf(type) : -1;
  return column?.kind === "category" && at >= 0 ? column.colours[at] : "#b9b9c0";
}

function picture(cells: SlideCells, cell: Cell): HTMLElement {
  const points = cell.outline.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" ");
  const half = FIELD_UM / 2;
  const line = (stroke: string, width: number) =>
    svg("polygon", { points, fill: "none", stroke, "stroke-width": width, "stroke-linejoin": "round" });
  const bar = (stroke: string, width: number) =>
    svg("line", { x1: half - 11.5, x2: half - 1.5, y1: half - 1.5, y2: half - 1.5, stroke, "stroke-width": width });
  const text = svg("text", { x: half - 6.5, y: half - 2.6, "text-anchor": "middle", class: "bar-text" });
  text.textContent = "10 µm";
  return el(
    "figure",
    { class: "crop", title: "Point at it to see it without its outline" },
    el("img", { src: cropAddress(cells.place, cell.row, 576), alt: `The tissue around ${cell.name}` }),
    svg(
      "svg",
      { viewBox: `${-half} ${-half} ${FIELD_UM} ${FIELD_UM}` },
      svg("g", { class: "outline" }, line("#ffffff", 0.5), line(typeColour(cells, String(cell.values.type)), 0.26)),
      bar("#ffffff", 0.9),
      bar("#1c1c20", 0.45),
      text,
    ) as unknown as HTMLElement,
  );
}

function probabilities(cells: SlideCells, cell: Cell): HTMLElement {
  const sorted = Object.entries(cell.probabilities).sort((a, b) => b[1] - a[1]);
  const rows = sorted.slice(0, 8).map(([name, value]) => {
    const fill = el("i");
    fill.style.width = `${100 * value}%`;
    fill.style.background = typeColour(cells, name);
    return el("tr", {}, el("th", {}, name), el("td", { class: "bar" }, el("span", {}, fill)), el("td", {}, value.toFixed(2)));
  });
  return el("table", { class: "probabilities" }, ...rows);
}

function facts(cell: Cell): HTMLElement {
  const row = (name: string, text: string, title?: string) => el("tr", { title }, el("th", {}, name), el("td", {}, text));
  const { score, familiarity, cluster } = cell.values;
  const rows = [row("Detection score", typeof score === "number" ? format("score", score) : "–")];
  if (typeof familiarity === "number")
    rows.push(row("Familiarity", format("familiarity", familiarity), "Share of the nuclei it was trained on that look as strange to the model, or stranger; below 0.05 it is a stranger"));
  if (typeof cluster === "number") rows.push(row("Cluster", String(cluster)));
  return el("table", { class: "facts" }, ...rows);
}

function measurements(cell: Cell): HTMLElement {
  const rows = Object.entries(cell.values)
    .filter(([name, value]) => !IN_HEAD.includes(name) && value !== null)
    .map(([name, value]) => {
      const text = typeof value === "number" ? format(name, value) : String(value);
      return el("tr", {}, el("th", {}, label(name)), el("td", {}, text));
    });
  return el("details", { open: true }, el("summary", {}, "Measurements"), el("table", { class: "facts" }, ...rows));
}

