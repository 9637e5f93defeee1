// The embedding map: a point for each cell of the slide that is shown, those alike close together. Coloured, filtered
// and marked as on the slide. Coordinates of the map are within -1 to 1, y upwards: (x, -y) of its points.

import OlMap from "ol/Map";
import View from "ol/View";
import { defaults as defaultInteractions } from "ol/interaction/defaults";
import ImageLayer from "ol/layer/Image";
import Projection from "ol/proj/Projection";
import ImageCanvasSource from "ol/source/ImageCanvas";
import { getPoints, makeMap } from "./api";
import { HIDDEN, type SlideCells } from "./cells";
import { byId } from "./dom";
import { colours, drawPoints } from "./draw";
import { addLasso, type Polygon } from "./lasso";

const CLICK_PX = 6;
const EXTENT = [-1, -1, 1, 1];

export class EmbeddingMap {
  private map: OlMap | null = null;
  private readonly overlay = new ImageLayer({});
  private cells: SlideCells | null = null;
  private points: Float32Array | null = null;
  private held = new Map<number, Promise<Float32Array>>();

  /** `drawn`: a lasso, and the points that it is about; `clicked`: a row of the table, or -1. */
  constructor(
    private readonly lassoOn: () => boolean,
    private readonly drawn: (points: Float32Array, polygon: Polygon) => void,
    private readonly clicked: (row: number) => void,
  ) {}

  /** Show a slide's cells, once the map is made; call again when their colours or marks have changed. */
  async show(cells: SlideCells): Promise<void> {
    const again = this.cells === cells;
    this.cells = cells;
    if (byId("atlas").hidden) return;
    this.map ??= this.begin();
    this.map.updateSize();
    if (!again || !this.points) {
      this.points = null;
      this.overlay.getSource()!.changed();
      const points = await this.load(cells.place);
      if (cells !== this.cells) return;
      this.points = points;
      document.body.dataset.map = String(cells.place);
    }
    this.overlay.getSource()!.changed();
  }

  private begin(): OlMap {
    const projection = new Projection({ code: "embedding", units: "m", extent: EXTENT });
    this.overlay.setSource(new ImageCanvasSource({ projection, ratio: 1.2, canvasFunction: this.draw }));
    const map = new OlMap({
      target: "embedding",
      controls: [],
      interactions: defaultInteractions({ altShiftDragRotate: false, pinchRotate: false, shiftDragZoom: false }),
      layers: [this.overlay],
      view: new View({ projection, center: [0, 0], resolution: 2.1 / byId("embedding").clientWidth, minResolution: 1e-5, maxResolution: 0.02, enableRotation: false }),
    });
    addLasso(map, this.lassoOn, (polygon) => this.points && this.drawn(this.points, polygon));
    map.on("singleclick", ({ coordinate: [x, y] }) => this.clicked(this.rowAt(x, -y)));
    return map;
  }

  private load(place: number): Promise<Float32Array> {
    let points = this.held.get(place);
    if (!points) {
      points = this.made().then(() => getPoints(place));
      points.catch((error: Error) => {
        this.held.delete(place);
        byId("map-note").textContent = error.message;
      });
      this.held.set(place, points);
    }
    return points;
  }

  /** Wait until the server has made the map. */
  private async made(): Promise<void> {
    for (;;) {
      const { done, of } = await makeMap();
      if (done === of) break;
      byId("map-note").textContent = `The map is being made, once for this run: ${Math.floor((100 * done) / of)} %`;
      await new Promise((resolve) => window.setTimeout(resolve, 700));
    }
    byId("map-note").textContent = "";
  }

  private rowAt(x: number, y: number): number {
    const { points, cells } = this;
    let found = -1;
    if (!points || !cells) return found;
    let best = (CLICK_PX * this.map!.getView().getResolution()!) ** 2;
    for (let i = 0; i < cells.shade.length; i++) {
      const distance = (points[2 * i] - x) ** 2 + (points[2 * i + 1] - y) ** 2;
      if (distance < best && cells.shade[i] !== HIDDEN) [best, found] = [distance, i];
    }
    return found;
  }

  private readonly draw = (extent: number[], resolution: number, ratio: number, [width, height]: number[]): HTMLCanvasElement => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.max(1, Math.ceil(width)), Math.max(1, Math.ceil(height))];
    if (!this.points || !this.cells) return canvas;
    const frame = { left: extent[0], top: -extent[3], width, height, scale: ratio / resolution, ratio, dot: 0.004 };
    drawPoints(canvas.getContext("2d")!, { ...colours(this.cells), points: this.points }, frame);
    return canvas;
  };
}
