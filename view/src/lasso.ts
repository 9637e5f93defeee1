// A line drawn around cells: with Shift, or in the mode that `on` tells. The same on the slide and on the map.

import type OlMap from "ol/Map";
import { never, shiftKeyOnly } from "ol/events/condition";
import type OlPolygon from "ol/geom/Polygon";
import Draw from "ol/interaction/Draw";

export type Polygon = [number, number][];

export function addLasso(map: OlMap, on: () => boolean, drawn: (polygon: Polygon) => void): void {
  const draw = new Draw({
    type: "Polygon",
    condition: never,
    freehandCondition: (event) => on() || shiftKeyOnly(event),
    style: { "stroke-color": "#0b57d0", "stroke-width": 2, "fill-color": "rgba(11, 87, 208, 0.12)" },
  });
  draw.on("drawend", ({ feature }) => {
    const ring = (feature.getGeometry() as OlPolygon).getCoordinates()[0];
    drawn(ring.map(([x, y]) => [x, -y]));
  });
  map.addInteraction(draw);
}

/** 1 of each point (x, y, x, y, ...) that lies in a polygon. */
export function inside(points: Float32Array, polygon: Polygon): Uint8Array {
  const found = new Uint8Array(points.length / 2);
  const xs = polygon.map(([x]) => x);
  const ys = polygon.map(([, y]) => y);
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  for (let i = 0; i < found.length; i++) {
    const x = points[2 * i];
    const y = points[2 * i + 1];
    if (!(x >= left && x <= right && y >= top && y <= bottom)) continue;
    let odd = false;
    for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
      if (ys[a] > y !== ys[b] > y && x < ((xs[b] - xs[a]) * (y - ys[a])) / (ys[b] - ys[a]) + xs[a]) odd = !odd;
    }
    if (odd) found[i] = 1;
  }
  return found;
}
