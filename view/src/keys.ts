// The keyboard. Keys of one's own types come first, where there is something to label.

import type { Page } from "./main";
import { byId } from "./dom";

export function keyHandler(page: Page): (event: KeyboardEvent) => void {
  const { map, teacher } = page;
  const actions: Record<string, () => void> = {
    "+": () => map.zoom(1),
    "=": () => map.zoom(1),
    "-": () => map.zoom(-1),
    "0": () => map.fit(),
    ArrowLeft: () => map.pan(-0.3, 0),
    ArrowRight: () => map.pan(0.3, 0),
    ArrowUp: () => map.pan(0, -0.3),
    ArrowDown: () => map.pan(0, 0.3),
    "[": () => void page.open(page.place - 1),
    "]": () => void page.open(page.place + 1),
    a: () => document.querySelector<HTMLButtonElement>(".tick-all")?.click(),
    b: () => page.back(),
    c: () => byId("cells-on").click(),
    l: () => byId("lasso").click(),
    m: () => page.show("atlas"),
    n: () => byId("add").click(),
    q: () => byId("ask").click(),
    s: () => teacher.answer(null),
    t: () => page.show("teach"),
    x: () => page.strike(),
    z: () => void teacher.undo(),
    Escape: () => page.escape(),
    "?": () => byId<HTMLDialogElement>("help").showModal(),
  };
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId<HTMLDialogElement>("help").open) return;
    const target = event.target as HTMLElement;
    if (target instanceof HTMLSelectElement || (target instanceof HTMLInputElement && !["checkbox", "range"].includes(target.type))) return;
    if (target instanceof HTMLInputElement && target.type === "range" && event.key.startsWith("Arrow")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const type = teacher.typeOf(key);
    const column = page.cells?.column(page.choice.colour);
    const shown = column?.kind === "category" && /^[1-9]$/.test(key) ? column.names[Number(key) - 1] : undefined;
    if (type && page.label(type.type)) return event.preventDefault();
    if (actions[key]) actions[key]();
    else if (shown !== undefined) page.sidebar.toggle(column!.name, shown);
    else return;
    event.preventDefault();
  };
}
