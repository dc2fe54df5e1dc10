// The page: who asks, what is shown, and what is chosen of it.

import { Client, basic } from "./client.js";
import { element, nameOf, table } from "./diff.js";
import { preview } from "./preview.js";

const get = (id) => document.getElementById(id);
const DONE = { create: "created", update: "changed", delete: "deleted" };

let client;
let shown = { history: "", isBin: false, next: null };

const parameters = new URLSearchParams(location.search);
get("server").value = parameters.get("server") ?? "";
get("bucket").value = parameters.get("bucket") ?? "";
get("collection").value = parameters.get("collection") ?? "";
get("from").value = local(Date.now() - 86_400_000);

/** A moment as an input has it: in the time of the place. */
function local(moment) {
  return new Date(moment - new Date(moment).getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

/** Does something that may be refused, and says so. */
async function attempt(what, action) {
  get("status").textContent = what;
  try {
    get("status").textContent = (await action()) ?? "";
  } catch (error) {
    get("status").textContent = error.message;
  }
}

get("scheme").addEventListener("change", ({ target }) => {
  for (const label of document.querySelectorAll(".basic, .bearer")) label.hidden = !label.classList.contains(target.value);
});

get("who").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt("Connecting …", async () => {
    const scheme = get("scheme").value;
    const signs = { basic: () => basic(get("user").value, get("password").value), bearer: () => `Bearer ${get("token").value}` };
    client = new Client(get("server").value, signs[scheme]?.());
    const { user, capabilities } = await client.root();
    if (scheme !== "none" && !user) throw new Error("The server does not know these credentials.");
    if (!capabilities.history) throw new Error("The server keeps no history.");
    // Who may not list buckets names one.
    const buckets = await client.buckets().catch(() => []);
    get("buckets").replaceChildren(...buckets.map((value) => element("option", { value })));
    get("what").hidden = false;
    get("bucket").focus();
    return user ? `You are ${user.id}.` : "You are nobody in particular.";
  });
});

get("what").addEventListener("submit", (event) => {
  event.preventDefault();
  show(event.submitter?.value === "bin");
});

/** Shows the first page. */
function show(isBin) {
  const history = `/buckets/${encodeURIComponent(get("bucket").value)}/history`;
  const query = new URLSearchParams({ _limit: 50 });
  for (const [id, filter] of [["from", "gt_target.data.last_modified"], ["to", "max_target.data.last_modified"]]) {
    const moment = get(id).value && new Date(get(id).value).getTime();
    if (moment !== "") query.set(isBin ? filter : id, moment);
  }
  if (get("collection").value) query.set("collection_id", get("collection").value);
  if (get("author").value) query.set("user_id", get("author").value);
  shown = { history, isBin, next: `${history}/${isBin ? "deleted" : "diff"}?${query}` };
  get("rows").replaceChildren();
  get("list").hidden = true;
  return more();
}

/** Shows the next page. */
function more() {
  return attempt("Loading …", async () => {
    const own = shown;
    let page;
    do {
      page = await client.page(own.next);
      if (own !== shown) return get("status").textContent;
      own.next = page.next;
      // All on a page may have been made again.
    } while (page.rows.length === 0 && page.next);
    get("rows").append(...page.rows.map(row));
    get("more").hidden = !page.next;
    const number = get("rows").children.length;
    get("list").hidden = number === 0;
    choose();
    return number === 0 ? (shown.isBin ? "Nothing was deleted." : "Nothing changed.") : `${number} shown.`;
  });
}

/** A change, or something that was deleted. */
function row(change) {
  const entries = shown.isBin ? [change.entry].filter(Boolean) : change.entries;
  const action = shown.isBin ? "delete" : change.action;
  const [before, after] = shown.isBin ? [change.data, null] : [change.before, change.after];
  const isLost = shown.isBin ? !change.data : Boolean(change.before_is_unknown);
  const box = element("input", { type: "checkbox", name: "chosen", disabled: isLost || entries.length === 0 });
  box.dataset.entries = JSON.stringify(entries);
  const name = element("span", { className: "name", textContent: nameOf(change.uri), title: change.uri });
  const head = element(
    "div",
    { className: "head" },
    element("label", {}, box, " ", name),
    element("span", { className: action, textContent: DONE[action] }),
    element("span", { className: "faint", textContent: new Date(change.last_modified).toLocaleString() }),
    ...(shown.isBin ? [change.user_id].filter(Boolean) : change.user_ids).map(author),
  );
  if (change.conflict) head.append(element("span", { className: "conflict", textContent: change.conflict }));
  if (isLost) head.append(element("span", { className: "faint", textContent: "how it was before is not known" }));
  return element("li", {}, head, table(before, after));
}

/** Who did it: a click shows what they did. */
function author(id) {
  const button = element("button", { type: "button", className: "author", textContent: id, title: "Only what they did" });
  button.addEventListener("click", () => {
    get("author").value = id;
    show(shown.isBin);
  });
  return button;
}

const boxes = () => [...document.querySelectorAll("[name=chosen]:enabled")];

/** Says how much is chosen. */
function choose() {
  const number = boxes().filter((box) => box.checked).length;
  get("undo").disabled = number === 0;
  get("undo").textContent = `${shown.isBin ? "Bring back" : "Undo"} ${number} …`;
  get("all").checked = number > 0 && number === boxes().length;
}

get("rows").addEventListener("change", choose);
get("all").addEventListener("change", ({ target }) => {
  for (const box of boxes()) box.checked = target.checked;
  choose();
});
get("more").addEventListener("click", more);
get("undo").addEventListener("click", () => {
  const chosen = boxes().filter((box) => box.checked);
  const entries = chosen.flatMap((box) => JSON.parse(box.dataset.entries));
  preview(client, `${shown.history}/revert`, entries, get("undo").textContent, () => show(shown.isBin));
});
