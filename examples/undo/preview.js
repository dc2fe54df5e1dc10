// What undoing would do; and then what it did, line by line.

import { element, nameOf, table } from "./diff.js";

const get = (id) => document.getElementById(id);
const WORDS = {
  planned: "will be written",
  done: "done",
  unchanged: "is so already",
  conflict: "left alone",
  refused: "refused",
  not_tried: "not tried",
};

let asked;
let running;

/** Shows what undoing entries would do, and does it where that is wanted. `after` is called where something was done. */
export function preview(client, path, entries, title, after) {
  asked = { client, path, entries, after, hasWritten: false };
  get("title").textContent = title.replace(/ …$/, "");
  get("options").reset();
  get("preview").showModal();
  return run(true);
}

/** Asks, and shows the answer as it comes. What was asked before is asked no more. */
async function run(isDry) {
  running?.abort();
  const own = new AbortController();
  running = own;
  const body = { entries: asked.entries, dry_run: isDry };
  if (get("overwrite").checked) body.conflicts = "overwrite";
  if (get("permissions").checked) body.permissions = true;
  if (get("reason").value) body.reason = get("reason").value;
  get("do").disabled = true;
  get("outcome").textContent = isDry ? "Looking …" : "Writing …";
  get("lines").replaceChildren();
  asked.hasWritten ||= !isDry;
  let end;
  try {
    for await (const line of asked.client.lines(asked.path, body, own.signal)) {
      if (line.end) end = line.end;
      else get("lines").append(row(line));
    }
    get("outcome").textContent = end ? outcome(end, isDry) : "The answer broke off. The same again does what is left.";
  } catch (error) {
    if (own.signal.aborted) return;
    get("outcome").textContent = error.message;
  }
  const planned = end?.counts.planned ?? 0;
  const isOver = !isDry && end?.complete;
  get("do").disabled = isDry ? planned === 0 : isOver;
  get("do").textContent = isDry ? `Write ${planned}` : isOver ? "Written" : "Go on";
}

function row(line) {
  const head = element(
    "div",
    { className: "head" },
    element("span", { className: "name", textContent: nameOf(line.uri), title: line.uri }),
    element("span", { className: line.status, textContent: WORDS[line.status] }),
  );
  const why = [line.reason, line.code && `${line.code}: ${line.error?.message ?? ""}`].filter(Boolean).join(" ");
  if (why) head.append(element("span", { className: "faint", textContent: why }));
  const item = element("li", {}, head);
  if (line.status === "planned") item.append(table(line.before, line.after));
  return item;
}

function outcome({ counts, complete, reason }, isDry) {
  const told = Object.entries(counts).map(([status, number]) => `${number} ${WORDS[status]}`);
  const words = told.join(", ") || "Nothing is to be done";
  if (complete) return isDry ? `${words}. Nothing is written yet.` : `${words}.`;
  return `${words}. It stopped: ${reason ?? "not all was tried"}. The same again does what is left.`;
}

for (const id of ["overwrite", "permissions"]) get(id).addEventListener("change", () => run(true));
get("options").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!get("do").disabled) run(false);
});
get("close").addEventListener("click", () => get("preview").close());
get("preview").addEventListener("close", () => {
  running?.abort();
  if (asked.hasWritten) asked.after();
});
