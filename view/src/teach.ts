// The panel of types of one's own: make them, see how well they are told apart, answer proposals, save the head.
// Everything that is said goes to the server's journal at once; the head learns when nothing was said for a moment.

import {
  type CellName, cropAddress, getProposals, getTaught, learn, saveHead, say, type Taught, type TaughtType,
} from "./api";
import { byId, debounced, el, svg, swatch, thousands } from "./dom";

const FEW = 10; // labels of a type below which F1 is mostly chance
const POLL = 3000; // ms: what other browsers have said
const REST = 500; // ms after the last label: learn

const NAME = "Name what you want told apart: two types or more.";
const LABEL =
  "Now say what some cells are: click one, tick those like it if they are the same, and press the key of the type; or draw around " +
  "cells with Shift. From the second type on, all slides are typed by what you have said.";

export class Teacher {
  taught: Taught = { revision: 0, types: [], struck: 0, added: 0, lesson: null };
  private readonly client = (sessionStorage.client ??= crypto.randomUUID());
  private proposals: CellName[] = [];
  private queue: Promise<unknown> = Promise.resolve();
  private busy = false;

  /** `changed`: marks of cells, `learned`: the types of all cells; `show`: a cell that is asked about. */
  constructor(
    private readonly clusters: () => number,
    private readonly changed: () => void,
    private readonly learned: () => Promise<void>,
    private readonly show: (cell: CellName) => void,
    private readonly complain: (error: Error) => void,
  ) {
    byId<HTMLFormElement>("new-type").onsubmit = (event) => {
      event.preventDefault();
      this.make(byId<HTMLInputElement>("new-name").value.trim());
    };
    byId("undo").onclick = () => void this.undo();
    byId("ask").onclick = () => void this.ask();
    byId("save").onclick = () => void this.save();
    window.setInterval(() => void this.look(), POLL);
    this.draw();
  }

  /** What was taught before, and by others since. */
  async look(): Promise<void> {
    if (document.hidden || this.busy) return;
    const taught = await getTaught();
    if (this.busy || (taught.revision === this.taught.revision && taught.lesson?.revision === this.taught.lesson?.revision)) return;
    this.take(taught);
    if (taught.revision !== taught.lesson?.revision) this.learnSoon();
    else await this.learned();
  }

  /** Whether there is something to tell apart: all cells would be of one type otherwise. */
  get isTyping(): boolean {
    return this.taught.types.filter(({ labels }) => labels).length > 1;
  }

  get asking(): CellName | undefined {
    return this.proposals[0];
  }

  stopAsking(): void {
    this.proposals = [];
    this.drawProposals();
  }

  typeOf(key: string): TaughtType | undefined {
    return this.taught.types.find((type) => type.key === key);
  }

  /** Label cells, one batch. */
  label(cells: CellName[], type: number | null): void {
    void this.act({ action: "label", type, cells: cells.map(({ slide, row }) => [slide, row]) });
  }

  strike(cells: CellName[]): void {
    void this.act({ action: "strike", cells: cells.map(({ slide, row }) => [slide, row]) });
  }

  add(slide: number, box: number[], type: number | null): void {
    void this.act({ action: "add", slide, box, type });
  }

  /** The cell that is asked about is of a type, or no cell; null: leave it. */
  answer(type: number | "none" | null): void {
    const cell = this.proposals.shift();
    if (!cell) return;
    if (type === "none") this.strike([cell]);
    else if (type !== null) this.label([cell], type);
    this.drawProposals();
    if (this.asking) this.show(this.asking);
    else void this.queue.then(() => this.ask());
  }

  async undo(): Promise<void> {
    await this.act({ action: "undo" });
  }

  private make(name: string): void {
    if (!name) return;
    const key = "123456789".split("").find((one) => !this.typeOf(one)) ?? "";
    byId<HTMLInputElement>("new-name").value = "";
    void this.act({ action: "define", name, key });
  }

  /** One after the other: each names the revision that the one before has made. */
  private act(said: object): Promise<void> {
    this.busy = true;
    const done = this.queue.then(async () => {
      try {
        this.take(await say({ ...said, base: this.taught.revision, client: this.client }));
        this.learnSoon();
      } catch (error) {
        this.complain(error as Error);
        this.take(await getTaught());
      } finally {
        this.busy = false;
      }
    });
    this.queue = done.catch(() => undefined);
    return done;
  }

  private readonly learnSoon = debounced(REST, () => void this.learn());

  private async learn(): Promise<void> {
    if (!this.taught.types.some(({ labels }) => labels)) return this.learned();
    this.take(await learn());
    await this.learned();
    document.body.dataset.learned = String(this.taught.lesson?.revision);
  }

  private async ask(): Promise<void> {
    await this.queue;
    this.proposals = await getProposals();
    this.drawProposals();
    if (this.asking) this.show(this.asking);
  }

  private async save(): Promise<void> {
    const { command } = await saveHead();
    const copy = el("button", { type: "button", onclick: () => void navigator.clipboard.writeText(command) }, "Copy");
    byId("saved").replaceChildren(
      el("p", {}, "Saved. This command writes your types into the tables of all slides:"),
      el("div", { class: "row" }, el("code", {}, command), copy),
    );
  }

  private take(taught: Taught): void {
    this.taught = taught;
    document.body.dataset.revision = String(taught.revision);
    this.draw();
    this.changed();
  }

  private draw(): void {
    const { types, lesson, struck, added } = this.taught;
    byId("types").replaceChildren(...types.map((type, i) => this.row(type, lesson?.types.indexOf(type.type) ?? -1, i)));
    const labels = types.reduce((sum, type) => sum + type.labels, 0);
    const parts = [`${thousands(labels)} labels`, struck ? `${struck} struck out` : "", added ? `${added} added` : ""];
    byId("said").textContent = this.taught.revision ? parts.filter(Boolean).join(" · ") : "";
    byId("teach").classList.toggle("begun", types.length > 0);
    byId("how").hidden = this.isTyping;
    byId("save").hidden = !this.isTyping;
    byId("how").textContent = types.length < 2 ? NAME : LABEL;
    byId("f1").textContent = lesson?.macro_f1 == null ? "" : `Macro F1 ${lesson.macro_f1.toFixed(2)}`;
    const few = types.some((type) => type.labels && type.labels < FEW);
    byId("f1-note").textContent = !this.isTyping
      ? ""
      : lesson?.macro_f1 == null
        ? "How well your types are told apart is said once two of them have two labels or more, some distance apart."
        : `How well each label is guessed from the others: 1 is perfect.${few ? ` With fewer than ${FEW} labels of a type, that is much by chance.` : ""}`;
    byId("confusion").replaceChildren(lesson?.macro_f1 == null ? "" : this.confusion());
    this.drawClusters();
  }

  private row(type: TaughtType, at: number, index: number): HTMLElement {
    const change = (values: object) => void this.act({ action: "define", type: type.type, name: type.name, colour: type.colour, key: type.key, ...values });
    const on = (apply: (value: string) => void) => (event: Event) => apply((event.target as HTMLInputElement).value.trim());
    const others = this.taught.types.filter((other) => other !== type);
    const more = el(
      "select",
      { "aria-label": `Merge or drop ${type.name}`, class: "more" },
      el("option", { value: "" }, "…"),
      ...others.map((other) => el("option", { value: other.type }, `merge into ${other.name}`)),
      el("option", { value: "drop" }, "drop, with its labels"),
    );
    more.onchange = () => void this.act({ action: "merge", type: type.type, into: more.value === "drop" ? null : Number(more.value) });
    const f1 = this.taught.lesson?.f1[at];
    return el(
      "tr",
      {},
      el("td", {}, el("input", { type: "color", value: type.colour, "aria-label": `Colour of ${type.name}`, onchange: on((colour) => change({ colour })) })),
      el("td", {}, el("input", { class: "type-name", value: type.name, "aria-label": `Name of type ${index + 1}`, onchange: on((name) => name && change({ name })) })),
      el("td", {}, el("input", { class: "type-key", value: type.key, maxlength: 1, "aria-label": `Key of ${type.name}`, onchange: on((key) => change({ key: key.toLowerCase() })) })),
      el("td", {}, thousands(type.labels)),
      el("td", {}, f1 == null ? "–" : f1.toFixed(2)),
      el("td", {}, more),
    );
  }

  /** Rows: what was said; columns: what the head, not having seen it, would say. */
  private confusion(): HTMLElement {
    const lesson = this.taught.lesson!;
    const kinds = lesson.types.map((number) => this.taught.types.find(({ type }) => type === number)!).filter(Boolean);
    const head = el("tr", {}, el("th", {}), ...kinds.map((kind) => el("td", { title: `typed ${kind.name}` }, swatch(kind.colour))));
    const rows = lesson.confusion.slice(0, kinds.length).map((counts, i) => {
      const most = Math.max(1, ...counts);
      const cells = counts.map((count, j) => {
        const cell = el("td", { title: `${count} of ${kinds[i].name} typed ${kinds[j]?.name}` }, String(count));
        cell.style.background = `rgb(11 87 208 / ${(0.35 * count) / most})`;
        return cell;
      });
      return el("tr", {}, el("th", {}, swatch(kinds[i].colour), kinds[i].name), ...cells);
    });
    return el("table", { class: "matrix" }, el("caption", { class: "faint" }, "Rows: your labels. Columns: guessed from the others."), head, ...rows);
  }

  private drawProposals(): void {
    const [first, ...rest] = this.proposals;
    byId("proposals").replaceChildren(
      ...(first
        ? [
            el("h3", {}, "What is the cell in the middle?"),
            el(
              "figure",
              { class: "asked" },
              el("img", { src: cropAddress(first.slide, first.row, 288), alt: "The cell that is asked about" }),
              svg("svg", { viewBox: "0 0 32 32" }, svg("circle", { cx: 16, cy: 16, r: 6.5 })) as unknown as HTMLElement,
            ),
            el(
              "div",
              { class: "answers" },
              ...this.taught.types.map((type) => this.button(type, () => this.answer(type.type))),
              el("button", { type: "button", onclick: () => this.answer("none") }, "No cell", el("kbd", {}, "X")),
              el("button", { type: "button", onclick: () => this.answer(null) }, "Skip", el("kbd", {}, "S")),
              el("button", { type: "button", onclick: () => this.stopAsking() }, "End", el("kbd", {}, "Esc")),
            ),
            el("p", { class: "faint" }, "After it:"),
            el("div", { class: "strip" }, ...rest.slice(0, 6).map((cell) => el("img", { src: cropAddress(cell.slide, cell.row, 96), alt: "" }))),
          ]
        : []),
    );
    document.body.classList.toggle("asking", first !== undefined);
  }

  /** A button with the type's key. */
  button(type: TaughtType, press: () => void): HTMLElement {
    return el("button", { type: "button", onclick: press }, swatch(type.colour), type.name, type.key ? el("kbd", {}, type.key) : null);
  }

  private drawClusters(): void {
    const { types } = this.taught;
    const rows = Array.from({ length: types.length ? this.clusters() : 0 }, (_, cluster) => {
      const select = el("select", { "aria-label": `Type of cluster ${cluster}` }, el("option", { value: "" }, "is …"), ...types.map(({ type, name }) => el("option", { value: type }, name)));
      select.onchange = () => void this.act({ action: "cluster", cluster, type: Number(select.value) });
      return el("label", { class: "row" }, `Cluster ${cluster}`, select);
    });
    byId("clusters").hidden = !rows.length;
    byId("cluster-list").replaceChildren(...rows);
  }
}
