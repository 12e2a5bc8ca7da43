// Fold vectors in JavaScript with what `nearfold export fold.safetensors fold.json` wrote.
import { readFileSync } from "node:fs";

const { weight, bias } = JSON.parse(readFileSync(process.argv[2], "utf8"));

const fold = (vector) =>
  weight.map((axis, i) => axis.reduce((sum, w, j) => sum + w * vector[j], bias ? bias[i] : 0));

const vectors = JSON.parse(readFileSync(process.argv[3], "utf8"));
console.log(JSON.stringify(vectors.map(fold)));
