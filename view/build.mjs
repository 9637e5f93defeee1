// Bundle the page into the Python package: `node build.mjs [FOLDER]`.
import { build } from "esbuild";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "..", "src", "celldetr", "view", "static");
mkdirSync(out, { recursive: true });

const result = await build({
  absWorkingDir: here,
  entryPoints: ["src/main.ts"],
  outfile: join(out, "app.js"),
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none", // they are in licences.txt, whole
  metafile: true,
  logLevel: "warning",
});
for (const name of ["index.html", "app.css"]) copyFileSync(join(here, "src", name), join(out, name));

// The licences of what is in the bundle, and of nothing else.
const packages = new Set();
for (const output of Object.values(result.metafile.outputs))
  for (const [path, { bytesInOutput }] of Object.entries(output.inputs)) {
    const name = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1];
    if (name && bytesInOutput > 0) packages.add(name);
  }
const parts = ["The page of celldetr view contains these packages.\n"];
for (const name of [...packages].sort()) {
  const folder = join(here, "node_modules", name);
  const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file || !existsSync(join(folder, file))) throw new Error(`${name}: no licence file`);
  const text = readFileSync(join(folder, file), "utf8").replace(/\r\n/g, "\n").trim();
  parts.push(`${"=".repeat(80)}\n${name} ${about.version} (${about.license})\n\n${text}\n`);
}
writeFileSync(join(out, "licences.txt"), parts.join("\n"));
