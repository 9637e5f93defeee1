// The page of celldetr view: what is shown, and how its parts act on one another.

import { type CellName, getCell, getMarks, getRun, getTyped, readEmbeddings, type Run } from "./api";
import { ask, type Asked, type Choice, SlideCells, TAUGHT } from "./cells";
import { CellPanel } from "./cell_panel";
import { byId, el, thousands } from "./dom";
import { EmbeddingMap } from "./embedding_map";
import { keyHandler } from "./keys";
import type { Polygon } from "./lasso";
import { listSlides, markSlide, Sidebar } from "./sidebar";
import { SlideMap } from "./slide_map";
import { Teacher } from "./teach";

const MOST_LABELLED = 1000; // cells of a lasso that get its label; more teach nothing more, and slow the head down

export type Tab = "cell" | "atlas" | "teach";

export class Page {
  cells: SlideCells | null = null;
  place = -1;
  readonly choice: Choice = { colour: "", hidden: new Map(), ranges: new Map() };
  readonly map: SlideMap;
  readonly sidebar: Sidebar;
  readonly teacher: Teacher;
  private readonly panel: CellPanel;
  private readonly atlas: EmbeddingMap;
  private tool: "lasso" | "add" | null = null;
  private marked = 0;
  private visits: CellName[] = []; // cells that were looked at, the present one last
  private asking: AbortController | null = null;
  private readonly showPictures: () => void;

  constructor(private readonly run: Run) {
    const lassoOn = () => this.tool !== null;
    const clicked = (row: number) => (row < 0 ? this.deselect() : void this.select({ slide: this.place, row }));
    this.map = new SlideMap(
      clicked,
      lassoOn,
      (polygon) => this.drawn(this.cells?.centres, polygon),
    );
    this.atlas = new EmbeddingMap(lassoOn, (points, polygon) => this.mark(points, polygon), clicked);
    this.sidebar = new Sidebar(this.choice, () => this.recolour());
    this.panel = new CellPanel(run, (slide, row) => void this.select({ slide, row }), () => this.bar());
    this.teacher = new Teacher(
      () => this.clusters(),
      () => void this.showSaid(),
      () => this.retype(),
      (cell) => {
        this.show("teach");
        void this.select(cell, false, true);
      },
      complain,
    );
    this.panel.close();
    this.showPictures = listSlides(run, (place) => void this.open(place));
    byId("run").textContent = [
      run.slides.length === 1 ? "1 slide" : `${thousands(run.slides.length)} slides`,
      `${thousands(run.cells)} cells`,
      ...(run.model ? [run.model] : []),
    ].join(" · ");
    byId<HTMLInputElement>("opacity").oninput = () => this.setOpacity();
    byId<HTMLInputElement>("cells-on").onchange = () => this.setOpacity();
    byId("zoom-in").onclick = () => this.map.zoom(1);
    byId("zoom-out").onclick = () => this.map.zoom(-1);
    byId("fit").onclick = () => this.map.fit();
    byId("lasso").onclick = () => this.use(this.tool === "lasso" ? null : "lasso");
    byId("add").onclick = () => this.use(this.tool === "add" ? null : "add");
    byId("help-open").onclick = () => byId<HTMLDialogElement>("help").showModal();
    byId("close").onclick = () => this.closeRight();
    [...tabs(), byId("open-atlas"), byId("open-teach")].forEach((tab) => (tab.onclick = () => this.show(tab.dataset.tab as Tab)));
    document.addEventListener("keydown", keyHandler(this));
  }

  /** Show a slide, which may have been asked for already. */
  async open(place: number, asked?: Asked): Promise<void> {
    if (place === this.place || !this.run.slides[place]) return;
    this.place = place;
    this.deselect();
    this.unmark();
    markSlide(place);
    asked ??= ask(place);
    const slide = await asked.slide;
    if (this.place !== place) return; // another was opened meanwhile
    document.title = `${slide.name} – CellDETR`;
    byId("missing").textContent = slide.missing ? `No pixels: ${slide.missing}. Start with --slides FOLDER.` : "";
    this.map.show(place, slide);
    const cells = await SlideCells.load(place, asked);
    if (this.place !== place) return;
    this.cells = cells;
    if (this.teacher.taught.types.length) await this.retype();
    else await this.colourAll();
    await this.showSaid();
    document.body.dataset.slide = String(place);
    // Only now: the first picture does not wait for what takes the server long.
    this.map.whenDrawn(() => {
      this.showPictures();
      void readEmbeddings().then(() => this.teacher.look());
    });
  }

  private async colourAll(): Promise<void> {
    if (!this.cells) return;
    await this.sidebar.open(this.cells);
    await this.recolour();
  }

  private async recolour(): Promise<void> {
    const cells = this.cells;
    if (!cells) return;
    await cells.apply(this.choice);
    if (cells !== this.cells) return;
    this.sidebar.legend(cells);
    this.redraw();
  }

  private redraw(): void {
    if (!this.cells) return;
    this.map.setCells(this.cells);
    void this.atlas.show(this.cells);
  }

  /** Types of one's own, after the head has learned; the first time they become the colours. */
  private async retype(): Promise<void> {
    const { cells } = this;
    const { types } = this.teacher.taught;
    if (!cells) return;
    const before = cells.column(TAUGHT) !== undefined || this.choice.colour === TAUGHT;
    const typed = this.teacher.taught.lesson && this.teacher.isTyping ? await getTyped(cells.place) : null;
    if (cells !== this.cells) return;
    cells.setTaught(types, typed);
    if (typed && !before) this.choice.colour = TAUGHT;
    const visit = this.visits.at(-1);
    if (visit?.slide === cells.place) this.panel.setTaught(cells.taughtOf(visit.row));
    await this.colourAll();
  }

  private async showSaid(): Promise<void> {
    this.bar();
    const { place } = this;
    if (!this.teacher.taught.revision) return;
    const marks = await getMarks(place);
    if (place === this.place) this.map.setSaid(marks, this.teacher.taught.types);
  }

  private clusters(): number {
    const column = this.cells?.column("cluster");
    return column?.kind === "category" ? column.names.length : 0;
  }

  /** Look at a cell, on this slide or another; from a click of the map, among kin, or because it is asked about. */
  async select(visit: CellName, back = false, asked = false): Promise<void> {
    try {
      const other = visit.slide !== this.place;
      const visits = this.visits;
      if (other) await this.open(visit.slide);
      this.asking?.abort();
      const asking = (this.asking = new AbortController());
      const cell = await getCell(visit.slide, visit.row, asking.signal);
      if (!this.cells || this.cells.place !== visit.slide) return;
      this.visits = back ? visits : [...visits.slice(-49), visit];
      if (!asked) this.unmark();
      this.panel.open(this.cells, cell, this.visits.length > 1 ? () => this.back() : null);
      this.panel.setTaught(this.cells.taughtOf(visit.row));
      if (!asked && byId("atlas").hidden) this.show("cell", false);
      this.map.mark(cell);
      document.body.dataset.cell = cell.name;
      this.bar();
      if (other || asked || !this.map.sees(cell.x, cell.y)) this.map.goTo(cell.x, cell.y, !other);
    } catch (error) {
      if ((error as Error).name !== "AbortError") complain(error as Error);
    }
  }

  back(): void {
    if (this.visits.length < 2) return;
    this.visits.pop();
    void this.select(this.visits[this.visits.length - 1], true);
  }

  /** Show a part of the right side; a slide that is seen whole is `refit`ted to the place that is left. */
  show(tab: Tab, refit = true): void {
    const change = () => {
      document.body.classList.add("with-right");
      tabs().forEach((one) => {
        one.setAttribute("aria-selected", String(one.dataset.tab === tab));
        byId(one.dataset.tab!).hidden = one.dataset.tab !== tab;
      });
    };
    if (document.body.classList.contains("with-right")) change();
    else this.map.resize(change, refit);
    if (tab === "atlas" && this.cells) void this.atlas.show(this.cells);
  }

  closeRight(): void {
    this.deselect();
    if (document.body.classList.contains("with-right")) this.map.resize(() => document.body.classList.remove("with-right"));
  }

  /** What Esc does: the innermost first. */
  escape(): void {
    if (this.tool) this.use(null);
    else if (this.teacher.asking) this.teacher.stopAsking();
    else if (this.marked) this.unmark();
    else this.closeRight();
  }

  use(tool: "lasso" | "add" | null): void {
    this.tool = tool;
    for (const name of ["lasso", "add"]) byId(name).setAttribute("aria-pressed", String(tool === name));
    document.body.classList.toggle("lassoing", tool !== null);
    this.bar();
  }

  private drawn(points: Float32Array | undefined, polygon: Polygon): void {
    if (this.tool !== "add") return points && this.mark(points, polygon);
    const [xs, ys] = [polygon.map(([x]) => x), polygon.map(([, y]) => y)];
    this.teacher.add(this.place, [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)], null);
    this.use(null);
  }

  private mark(points: Float32Array, polygon: Polygon): void {
    if (!this.cells) return;
    this.deselect();
    this.marked = this.cells.mark(points, polygon);
    document.body.dataset.marked = String(this.marked);
    this.use(null);
    this.redraw();
  }

  private unmark(): void {
    if (!this.marked) return;
    this.marked = 0;
    delete document.body.dataset.marked;
    if (this.cells) this.cells.marked = null;
    this.bar();
    this.redraw();
  }

  private deselect(): void {
    this.asking?.abort();
    this.visits = [];
    this.panel.close();
    this.map.mark(null);
    delete document.body.dataset.cell;
    this.bar();
  }

  /** The cells that a label is for: those marked, or the present one and its ticked kin. */
  private chosen(): CellName[] {
    if (this.marked && this.cells?.marked) {
      const rows = [...this.cells.marked.keys()].filter((row) => this.cells!.marked![row]);
      const step = Math.max(1, rows.length / MOST_LABELLED);
      const some = Array.from({ length: Math.min(rows.length, MOST_LABELLED) }, (_, i) => rows[Math.floor(i * step)]);
      return some.map((row) => ({ slide: this.place, row }));
    }
    const present = this.visits.at(-1);
    return present && document.body.dataset.cell !== undefined ? [present, ...this.panel.ticked] : [];
  }

  /** Label what is chosen, or answer what is asked; whether there is anything. */
  label(type: number): boolean {
    if (this.teacher.asking) {
      this.teacher.answer(type);
      return true;
    }
    const cells = this.chosen();
    if (!cells.length) return false;
    this.teacher.label(cells, type);
    this.unmark();
    return true;
  }

  strike(): void {
    if (this.teacher.asking) return this.teacher.answer("none");
    const cells = this.chosen();
    if (cells.length) this.teacher.strike(cells);
    this.unmark();
  }

  /** What is chosen, and what can be said of it. */
  private bar(): void {
    const { types } = this.teacher.taught;
    const cells = this.marked || (types.length && !this.teacher.asking) ? this.chosen() : [];
    const text = this.tool
      ? this.tool === "add" ? "Draw around a nucleus that was not found" : "Draw around cells"
      : this.marked > MOST_LABELLED
        ? `${thousands(this.marked)} cells marked; a label goes to ${thousands(MOST_LABELLED)} of them`
        : this.marked ? `${thousands(this.marked)} cells marked` : cells.length === 1 ? "Label this cell as" : `Label ${cells.length} cells as`;
    byId("bar").hidden = !this.tool && !cells.length;
    byId("bar").replaceChildren(
      el("span", {}, text),
      ...(this.tool || !cells.length
        ? []
        : [
            ...types.map((type) => this.teacher.button(type, () => void this.label(type.type))),
            ...(types.length ? [el("button", { type: "button", title: "These are no cells (X)", onclick: () => this.strike() }, "No cell")] : []),
            ...(this.marked ? [el("button", { type: "button", title: "Esc", onclick: () => this.unmark(), class: "close", "aria-label": "Unmark" }, "×")] : []),
          ]),
    );
  }

  private setOpacity(): void {
    const on = byId<HTMLInputElement>("cells-on").checked;
    this.map.setOpacity(on ? Number(byId<HTMLInputElement>("opacity").value) / 100 : 0);
  }
}

const tabs = () => [...document.querySelectorAll<HTMLButtonElement>("#tabs [role=tab]")];

function complain(error: Error): void {
  byId("error").textContent = error.message;
  byId("error").hidden = false;
  window.setTimeout(() => (byId("error").hidden = true), 8000);
}

window.addEventListener("unhandledrejection", (event) => complain(event.reason as Error));
const first = ask(0);
void getRun().then((run) => new Page(run).open(0, first));
