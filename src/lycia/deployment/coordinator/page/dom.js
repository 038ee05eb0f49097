// Elements, and lists of them that change in place.

/** A new element. `props`: class, text, on* handlers, data-* and aria-* attributes, or properties of the element. */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.includes("-")) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Set a text, if it is another one: what did not change is not drawn again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set an attribute, or take it away with null. */
export function mark(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** A list of which each item keeps its element: made once by `make(item)`, then changed by `change(element, item)`. */
export class Rows {
  constructor(parent, key, make, change) {
    Object.assign(this, { parent, key, make, change });
    this.rows = new Map();
  }

  show(items) {
    const wanted = new Map(items.map((item) => [this.key(item), item]));
    for (const [key, row] of this.rows) {
      if (wanted.has(key)) continue; // first, so that no row that stays is moved for one that goes: it may have the focus
      row.remove();
      this.rows.delete(key);
    }
    let before = this.parent.firstElementChild;
    for (const [key, item] of wanted) {
      let row = this.rows.get(key);
      if (!row) this.rows.set(key, (row = this.make(item)));
      this.change(row, item);
      if (row === before) before = before.nextElementSibling;
      else this.parent.insertBefore(row, before);
    }
  }
}

/** Call `draw` soon, and once for all that happens until then: at most ten times a second, and a fifth of the time. */
export function gathered(draw) {
  let waits = false;
  let pauseMs = 100;
  return () => {
    if (waits) return;
    waits = true;
    setTimeout(() => requestAnimationFrame(() => {
      waits = false;
      const beganMs = performance.now();
      draw();
      pauseMs = Math.max(4 * (performance.now() - beganMs), 100);
    }), pauseMs);
  };
}
