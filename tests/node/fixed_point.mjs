// Reads lines of JSON arrays of texts; answers each with the array of what JSON.stringify(JSON.parse(text)) makes of
// them, null where the text is no JSON. Lines are split at \n alone: the readline module also splits at U+2028.
import { readFileSync } from "node:fs";

function roundTrip(text) {
  try {
    return JSON.stringify(JSON.parse(text));
  } catch {
    return null;
  }
}

for (const line of readFileSync(0, "utf8").split("\n")) {
  if (line !== "") {
    process.stdout.write(JSON.stringify(JSON.parse(line).map(roundTrip)) + "\n");
  }
}
