// What is told of an object, as elements. Texts of others are only ever texts here.

/** An element with properties and children. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** The fields that differ: their paths, and what they were and are. What is not there is undefined. */
export function differing(before, after, path = []) {
  if (isObject(before) && isObject(after)) {
    const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].sort();
    return names
      .filter((name) => path.length > 0 || name !== "last_modified")
      .flatMap((name) => differing(before[name], after[name], [...path, name]));
  }
  return JSON.stringify(before) === JSON.stringify(after) ? [] : [{ path: path.join("."), before, after }];
}

/** What makes the one object of the other. None is there where it is null. */
export function table(before, after) {
  const rows = differing(before ?? {}, after ?? {}).map(({ path, before, after }) => {
    const cell = element("td");
    if (before !== undefined) cell.append(element("del", { textContent: text(before) }));
    if (after !== undefined) cell.append(element("ins", { textContent: text(after) }));
    return element("tr", {}, element("th", { scope: "row", textContent: path }), cell);
  });
  return element("table", {}, ...rows);
}

const text = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 1));

/** The name of an object within its bucket. */
export function nameOf(uri) {
  const [, , bucket, kind, id, , record] = uri.split("/");
  return [kind === "groups" ? `group ${id}` : id ?? bucket, record].filter(Boolean).join("/");
}
