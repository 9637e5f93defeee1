// The slide and its cells, panned and zoomed. Coordinates of the map are micrometres, y upwards: (x, -y) of the slide.

import Feature from "ol/Feature";
import OlMap from "ol/Map";
import View from "ol/View";
import { easeOut } from "ol/easing";
import Point from "ol/geom/Point";
import Polygon from "ol/geom/Polygon";
import { defaults as defaultInteractions } from "ol/interaction/defaults";
import ImageLayer from "ol/layer/Image";
import TileLayer from "ol/layer/Tile";
import VectorLayer from "ol/layer/Vector";
import Projection from "ol/proj/Projection";
import ImageCanvasSource from "ol/source/ImageCanvas";
import TileImage from "ol/source/TileImage";
import VectorSource from "ol/source/Vector";
import Circle from "ol/style/Circle";
import Fill from "ol/style/Fill";
import RegularShape from "ol/style/RegularShape";
import Stroke from "ol/style/Stroke";
import Style from "ol/style/Style";
import TileGrid from "ol/tilegrid/TileGrid";
import { type Cell, type Marks, type Slide, type TaughtType, tileAddress } from "./api";
import type { SlideCells } from "./cells";
import { byId, debounced } from "./dom";
import { drawCells } from "./draw";
import { addLasso, type Polygon as Lasso } from "./lasso";

const CLICK_UM = 8; // how far beside its centre a cell may be clicked
const CLICK_PX = 7;
const NEAR = 0.25; // um per pixel when a cell is gone to

const MOST_SAID = 3000; // labels that are drawn; more cover one another

const line = (width: number, color: string) => new Style({ stroke: new Stroke({ width, color }) });
const dot = (color: string) =>
  new Style({ image: new Circle({ radius: 4, fill: new Fill({ color }), stroke: new Stroke({ width: 1.5, color: "#ffffff" }) }) });
const cross = (width: number, color: string) =>
  new Style({ image: new RegularShape({ points: 4, radius: 7, radius2: 0, angle: Math.PI / 4, stroke: new Stroke({ width, color }) }) });

export class SlideMap {
  private readonly map: OlMap;
  private readonly tiles = new TileLayer({ preload: 1 });
  private readonly overlay = new ImageLayer({});
  private readonly marked = new VectorSource();
  private readonly said = new VectorSource();
  private cells: SlideCells | null = null;
  private slide: Slide | null = null;

  /** `clicked`: a row of the table, or -1; `drawn`: a lasso. */
  constructor(clicked: (row: number) => void, lassoOn: () => boolean, drawn: (polygon: Lasso) => void) {
    this.map = new OlMap({
      target: "map",
      controls: [],
      interactions: defaultInteractions({ altShiftDragRotate: false, pinchRotate: false, shiftDragZoom: false }),
      layers: [
        this.tiles,
        this.overlay,
        new VectorLayer({ source: this.said }),
        new VectorLayer({ source: this.marked, style: [line(6, "#ffffff"), line(3, "#0b57d0")] }),
      ],
    });
    addLasso(this.map, lassoOn, drawn);
    this.map.on("singleclick", ({ coordinate: [x, y] }) => clicked(this.rowAt(x, -y)));
    this.map.on("pointermove", ({ coordinate: [x, y], dragging }) => {
      if (!dragging) byId("place").textContent = this.placeText(x, -y);
    });
    this.map.on("postrender", () => this.drawScale());
  }

  /** Show a slide, whole. */
  show(place: number, slide: Slide): void {
    this.slide = slide;
    this.cells = null;
    this.marked.clear();
    this.said.clear();
    byId("mode").textContent = "";
    const extent = [0, -slide.height, slide.width, 0];
    const projection = new Projection({ code: "slide", units: "m", extent });
    const resolutions = Array.from({ length: slide.levels }, (_, z) => slide.finest * 2 ** (slide.levels - 1 - z));
    const tileGrid = new TileGrid({ extent, origin: [0, 0], resolutions, tileSize: slide.tile });
    this.tiles.setExtent(extent);
    this.tiles.setSource(
      slide.missing
        ? null
        : new TileImage({
            projection,
            tileGrid,
            transition: 120,
            tileUrlFunction: ([z, x, y]) => tileAddress(place, z, x, y),
          }),
    );
    const size = Math.max(slide.width, slide.height);
    this.map.setView(
      new View({
        projection,
        extent: [-size, -slide.height - size, slide.width + size, size],
        constrainOnlyCenter: true,
        showFullExtent: true,
        enableRotation: false,
        minResolution: slide.finest / 8,
        maxResolution: size / 150,
        center: [slide.width / 2, -slide.height / 2],
        resolution: size / 800,
      }),
    );
    this.fit(false);
    this.overlay.setSource(
      new ImageCanvasSource({ projection, ratio: 1.3, canvasFunction: this.draw }),
    );
  }

  /** Call something once all that is in view has been drawn. */
  whenDrawn(then: () => void): void {
    this.map.once("rendercomplete", then);
    this.map.render();
  }

  /** Draw these cells from now on; call again when their colours have changed. */
  setCells(cells: SlideCells): void {
    this.cells = cells;
    this.redraw();
  }

  private redraw(): void {
    this.overlay.getSource()?.changed();
  }

  /** Outlines come square by square; drawing all of them for each would take longer than their way here. */
  private readonly arrived = debounced(120, () => this.redraw());

  setOpacity(opacity: number): void {
    this.overlay.setOpacity(opacity);
  }

  /** The whole slide. */
  fit(animated = true): void {
    if (!this.slide) return;
    const extent = [0, -this.slide.height, this.slide.width, 0];
    this.map.getView().fit(extent, { padding: [24, 24, 24, 24], duration: animated ? 250 : 0 });
  }

  zoom(by: number): void {
    this.map.getView().animate({ zoom: this.map.getView().getZoom()! + by, duration: 180, easing: easeOut });
  }

  /** Move by shares of the view. */
  pan(right: number, down: number): void {
    const view = this.map.getView();
    const [width, height] = this.map.getSize()!;
    const [x, y] = view.getCenter()!;
    const step = view.getResolution()!;
    view.animate({ center: [x + right * width * step, y - down * height * step], duration: 180, easing: easeOut });
  }

  /** Bring a point (um) to the middle, near enough to see a cell. */
  goTo(x: number, y: number, animated: boolean): void {
    const view = this.map.getView();
    const near = this.slide?.physical ? NEAR : 1;
    const target = { center: [x, -y], resolution: Math.min(view.getResolution()!, near) };
    if (animated) view.animate({ ...target, duration: 350 });
    else {
      view.setCenter(target.center);
      view.setResolution(target.resolution);
    }
  }

  /** Let the map's size change without what it shows moving under the pointer; or `refit` a slide that is seen whole. */
  resize(change: () => void, refit = true): void {
    const [before] = this.map.getSize()!;
    const whole = this.slide && this.sees(0, 0) && this.sees(this.slide.width, this.slide.height);
    change();
    this.map.updateSize();
    if (whole && refit) return this.fit(false);
    const view = this.map.getView();
    const [x, y] = view.getCenter()!;
    view.setCenter([x + ((this.map.getSize()![0] - before) / 2) * view.getResolution()!, y]);
  }

  /** Whether a point (um) is in view. */
  sees(x: number, y: number): boolean {
    const [left, bottom, right, top] = this.map.getView().calculateExtent(this.map.getSize());
    return x > left && x < right && -y > bottom && -y < top;
  }

  /** Draw the outline of one cell over all others; null: of none. */
  mark(cell: Cell | null): void {
    this.marked.clear();
    if (cell) this.marked.addFeature(new Feature(new Polygon([cell.outline.map(([x, y]) => [cell.x + x, -cell.y - y])])));
  }

  /** Draw what was said: a dot on labelled cells, a cross on those struck out, a box around added nuclei. */
  setSaid(marks: Marks | null, types: TaughtType[]): void {
    this.said.clear();
    if (!marks || !this.cells) return;
    const colour = (number: number | null) => types.find(({ type }) => type === number)?.colour ?? "#65656f";
    const at = (row: number) => [this.cells!.centres[2 * row], -this.cells!.centres[2 * row + 1]];
    const features = marks.rows.slice(0, MOST_SAID).map((row, i) => {
      const feature = new Feature(new Point(at(row)));
      feature.setStyle(dot(colour(marks.types[i])));
      return feature;
    });
    for (const row of marks.struck.slice(0, MOST_SAID)) {
      const feature = new Feature(new Point(at(row)));
      feature.setStyle([cross(5, "#ffffff"), cross(2.5, "#1c1c20")]);
      features.push(feature);
    }
    for (const { box: [left, top, right, bottom], type } of marks.added) {
      const ring = [[left, -top], [right, -top], [right, -bottom], [left, -bottom], [left, -top]];
      const feature = new Feature(new Polygon([ring]));
      feature.setStyle([line(4, "#ffffff"), line(2, colour(type))]);
      features.push(feature as unknown as Feature<Point>);
    }
    this.said.addFeatures(features);
  }

  /** Micrometres per pixel. */
  get resolution(): number {
    return this.map.getView().getResolution() ?? 1;
  }

  private rowAt(x: number, y: number): number {
    const within = Math.max(this.slide?.physical ? CLICK_UM : 0, CLICK_PX * this.resolution);
    return this.cells?.nearest(x, y, within) ?? -1;
  }

  private readonly draw = (extent: number[], resolution: number, ratio: number, size: number[]): HTMLCanvasElement => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = size.map((side) => Math.max(1, Math.ceil(side)));
    if (!this.cells) return canvas;
    const frame = {
      left: extent[0],
      top: -extent[3],
      width: size[0],
      height: size[1],
      scale: ratio / resolution,
      ratio,
      dot: 2.6, // um
    };
    byId("mode").textContent = drawCells(canvas.getContext("2d")!, this.cells, frame, this.arrived);
    return canvas;
  };

  private placeText(x: number, y: number): string {
    const inside = this.slide && x >= 0 && y >= 0 && x < this.slide.width && y < this.slide.height;
    return inside ? `${(x / 1000).toFixed(3)}, ${(y / 1000).toFixed(3)} ${this.slide!.physical ? "mm" : "kpx"}` : "";
  }

  private drawScale(): void {
    if (!this.slide) return;
    const most = 140 * this.resolution;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].map((step) => step * power).find((step) => step <= most)!;
    byId("scale-bar").style.width = `${length / this.resolution}px`;
    const unit = this.slide.physical ? "µm" : "px";
    byId("scale-text").textContent =
      length >= 1000 && this.slide.physical ? `${length / 1000} mm` : `${Number(length.toPrecision(1))} ${unit}`;
  }
}
