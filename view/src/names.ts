// What columns are called for people, and their units.

interface Label {
  label: string;
  unit?: string;
  digits?: number;
}

const KNOWN: Record<string, Label> = {
  type: { label: "Type" },
  taught: { label: "My types" },
  taught_type: { label: "Taught types" },
  taught_type_score: { label: "Probability of its taught type", digits: 2 },
  cluster: { label: "Cluster" },
  score: { label: "Detection score", digits: 2 },
  type_score: { label: "Probability of its type", digits: 2 },
  familiarity: { label: "Familiarity", digits: 2 },
  area_um2: { label: "Area", unit: "µm²", digits: 1 },
  perimeter_um: { label: "Perimeter", unit: "µm", digits: 1 },
  major_um: { label: "Long axis", unit: "µm", digits: 1 },
  minor_um: { label: "Short axis", unit: "µm", digits: 1 },
  orientation: { label: "Orientation", unit: "rad", digits: 2 },
  eccentricity: { label: "Eccentricity", digits: 2 },
  solidity: { label: "Solidity", digits: 3 },
  haematoxylin_mean: { label: "Haematoxylin, mean", digits: 2 },
  haematoxylin_sd: { label: "Haematoxylin, SD", digits: 2 },
  eosin_mean: { label: "Eosin, mean", digits: 2 },
  eosin_sd: { label: "Eosin, SD", digits: 2 },
  x_px: { label: "x", unit: "px", digits: 0 },
  y_px: { label: "y", unit: "px", digits: 0 },
  x_um: { label: "x", unit: "µm", digits: 1 },
  y_um: { label: "y", unit: "µm", digits: 1 },
  w_px: { label: "Width of its box", unit: "px", digits: 1 },
  h_px: { label: "Height of its box", unit: "px", digits: 1 },
};

/** Places of a cell: of no use as a colour. */
export const PLACES = ["x_px", "y_px", "x_um", "y_um"];

const known = (name: string): Label => {
  if (KNOWN[name]) return KNOWN[name];
  const [, taught, type] = /^(taught_)?p_(.*)$/.exec(name) ?? [];
  return type === undefined ? { label: name } : { label: `Probability: ${type}${taught ? " (taught)" : ""}`, digits: 2 };
};

/** Whether a column holds probabilities of a type. */
export const isProbability = (name: string): boolean => /^(taught_)?p_/.test(name);
export const label = (name: string): string => known(name).label;
export const unit = (name: string): string => known(name).unit ?? "";

export function format(name: string, value: number, withUnit = true): string {
  const { unit: suffix, digits } = known(name);
  const text = digits === undefined ? Number(value.toPrecision(4)).toString() : value.toFixed(digits);
  return withUnit && suffix ? `${text} ${suffix}` : text;
}
