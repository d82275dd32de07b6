// node page_node.mjs PAGE < {vectors, shippedTables}: page_check.js on the modules in the folder PAGE.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const check = (0, eval)(readFileSync(new URL("page_check.js", import.meta.url), "utf8"));
const { vectors, shippedTables } = JSON.parse(readFileSync(0, "utf8"));
const page = pathToFileURL(`${process.argv[2]}/`);
console.log(JSON.stringify(await check((name) => import(new URL(name, page)), vectors, shippedTables)));
