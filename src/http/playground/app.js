"use strict";

// The key stays in this page's memory: it is in no storage and in no address.
const at = (id) => document.getElementById(id);
const examples = at("examples");
let offered = [];

function show(index) {
  at("query").value = offered[index].query;
  at("variables").value = JSON.stringify(offered[index].variables ?? {}, null, 2);
}

async function run() {
  const status = at("status");
  const result = at("result");
  const variables = at("variables").value.trim() || "{}";
  const key = at("key").value.trim();
  if (!key) {
    status.textContent = "an API key is needed; the first start printed one";
    at("key").focus();
    return;
  }
  try {
    JSON.parse(variables);
  } catch (error) {
    status.textContent = "the variables are not JSON";
    result.value = String(error);
    return;
  }
  // The variables go out as they were typed, so that no digit is lost on the way.
  const body = `{"query":${JSON.stringify(at("query").value)},"variables":${variables}}`;
  status.textContent = "…";
  const began = performance.now();
  try {
    const accept = "application/graphql-response+json, application/json;q=0.9";
    const headers = { "content-type": "application/json", accept, authorization: `Bearer ${key}` };
    const answer = await fetch("graphql", { method: "POST", headers, body, credentials: "omit" });
    const text = await answer.text();
    status.textContent = `${answer.status} in ${Math.round(performance.now() - began)} ms, request ${answer.headers.get("x-request-id") ?? "?"}`;
    result.value = pretty(text);
  } catch (error) {
    status.textContent = "no answer";
    result.value = String(error);
  }
}

// Indents without parsing, so that long numbers are shown as they came.
function pretty(text) {
  let out = "";
  let depth = 0;
  let inside = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (inside) {
      out += c;
      if (c === "\\") out += text[++i] ?? "";
      else if (c === '"') inside = false;
    } else if (c === '"') {
      inside = true;
      out += c;
    } else if (c === "{" || c === "[") {
      const close = c === "{" ? "}" : "]";
      if (text[i + 1] === close) { out += c + close; i++; }
      else out += c + "\n" + "  ".repeat(++depth);
    } else if (c === "}" || c === "]") {
      out += "\n" + "  ".repeat(--depth) + c;
    } else if (c === ",") {
      out += ",\n" + "  ".repeat(depth);
    } else if (c === ":") {
      out += ": ";
    } else if (!/\s/.test(c)) {
      out += c;
    }
  }
  return out;
}

async function start() {
  offered = await (await fetch("playground/examples.json")).json();
  offered.forEach((example, index) => examples.add(new Option(example.name, String(index))));
  examples.addEventListener("change", () => show(Number(examples.value)));
  show(0);
  at("run").addEventListener("click", run);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      run();
    }
  });
}

start();
