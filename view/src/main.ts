// The page of celldetr view: what is shown, and how its parts act on one another.

import { getCell, getRun, getSlide, readEmbeddings, type Run } from "./api";
import { type Choice, SlideCells } from "./cells";
import { CellPanel } from "./cell_panel";
import { byId, thousands } from "./dom";
import { listSlides, markSlide, Sidebar } from "./sidebar";
import { SlideMap } from "./slide_map";

interface Visit {
  slide: number;
  row: number;
}

class Page {
  private cells: SlideCells | null = null;
  private place = -1;
  private readonly choice: Choice = { colour: "type", hidden: new Map(), ranges: new Map() };
  private readonly map: SlideMap;
  private readonly sidebar: Sidebar;
  private readonly panel: CellPanel;
  private visits: Visit[] = []; // cells that were looked at, the present one last
  private asking: AbortController | null = null;

  constructor(private readonly run: Run) {
    this.map = new SlideMap(
      (row) => (row < 0 ? this.deselect() : void this.select({ slide: this.place, row })),
      () => (byId("mode").textContent = this.map.mode ?? ""),
    );
    this.sidebar = new Sidebar(this.choice, () => this.recolour());
    this.panel = new CellPanel(run, (slide, row) => void this.select({ slide, row }));
    listSlides(run, (place) => void this.open(place));
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
    byId("help-open").onclick = () => byId<HTMLDialogElement>("help").showModal();
    byId("map").addEventListener("cell-close", () => this.deselect());
    document.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show a slide. */
  async open(place: number): Promise<void> {
    if (place === this.place || !this.run.slides[place]) return;
    this.place = place;
    this.deselect();
    markSlide(place);
    const slide = await getSlide(place);
    if (this.place !== place) return; // another was opened meanwhile
    document.title = `${slide.name} – CellDETR`;
    byId("missing").textContent = slide.missing ? `No pixels: ${slide.missing}. Start with --slides FOLDER.` : "";
    this.map.show(place, slide);
    const cells = await SlideCells.load(place, slide, this.choice.colour);
    if (this.place !== place) return;
    this.cells = cells;
    await this.sidebar.open(cells);
    await this.recolour();
    document.body.dataset.slide = String(place);
    void readEmbeddings(); // only now: the first picture does not wait for them
  }

  private async recolour(): Promise<void> {
    const cells = this.cells;
    if (!cells) return;
    await cells.apply(this.choice);
    if (cells !== this.cells) return;
    this.sidebar.legend(cells);
    this.map.setCells(cells);
  }

  /** Look at a cell, on this slide or another; from a click of the map or among kin. */
  private async select(visit: Visit, back = false): Promise<void> {
    try {
      const other = visit.slide !== this.place;
      const visits = this.visits;
      if (other) await this.open(visit.slide);
      this.asking?.abort();
      const asking = (this.asking = new AbortController());
      const cell = await getCell(visit.slide, visit.row, asking.signal);
      if (!this.cells || this.cells.place !== visit.slide) return;
      this.visits = back ? visits : [...visits.slice(-49), visit];
      const cells = this.cells;
      this.map.resize(() => this.panel.open(cells, cell, this.visits.length > 1 ? () => this.back() : null));
      this.map.mark(cell);
      document.body.dataset.cell = cell.name;
      if (other || !this.map.sees(cell.x, cell.y)) this.map.goTo(cell.x, cell.y, !other);
    } catch (error) {
      if ((error as Error).name !== "AbortError") complain(error as Error);
    }
  }

  private back(): void {
    if (this.visits.length < 2) return;
    this.visits.pop();
    void this.select(this.visits[this.visits.length - 1], true);
  }

  private deselect(): void {
    this.asking?.abort();
    this.visits = [];
    if (document.body.dataset.cell !== undefined) this.map.resize(() => this.panel.close());
    this.map.mark(null);
    delete document.body.dataset.cell;
  }

  private setOpacity(): void {
    const on = byId<HTMLInputElement>("cells-on").checked;
    this.map.setOpacity(on ? Number(byId<HTMLInputElement>("opacity").value) / 100 : 0);
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target as HTMLElement;
    if (target instanceof HTMLInputElement && target.type === "range" && event.key.startsWith("Arrow")) return;
    if (target instanceof HTMLSelectElement || byId<HTMLDialogElement>("help").open) return;
    const actions: Record<string, () => void> = {
      "+": () => this.map.zoom(1),
      "=": () => this.map.zoom(1),
      "-": () => this.map.zoom(-1),
      "0": () => this.map.fit(),
      ArrowLeft: () => this.map.pan(-0.3, 0),
      ArrowRight: () => this.map.pan(0.3, 0),
      ArrowUp: () => this.map.pan(0, -0.3),
      ArrowDown: () => this.map.pan(0, 0.3),
      "[": () => void this.open(this.place - 1),
      "]": () => void this.open(this.place + 1),
      c: () => byId("cells-on").click(),
      b: () => this.back(),
      Escape: () => this.deselect(),
      "?": () => byId<HTMLDialogElement>("help").showModal(),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const column = this.cells?.column(this.choice.colour);
    if (action) action();
    else if (/^[1-9]$/.test(event.key) && column?.kind === "category" && column.names[Number(event.key) - 1])
      this.sidebar.toggle(column.name, column.names[Number(event.key) - 1]);
    else return;
    event.preventDefault();
  }
}

function complain(error: Error): void {
  byId("error").textContent = error.message;
  byId("error").hidden = false;
  window.setTimeout(() => (byId("error").hidden = true), 8000);
}

window.addEventListener("unhandledrejection", (event) => complain(event.reason as Error));
void getRun().then((run) => new Page(run).open(0));
