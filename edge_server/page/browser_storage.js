// The browser's small storages. It may refuse them; what is set then lasts as long as the page.

function storage(name) {
  const refused = new Map();
  const tried = (act, instead) => {
    try {
      return act(window[name]);
    } catch {
      return instead();
    }
  };
  return {
    get: (key) => refused.get(key) ?? tried((kept) => kept.getItem(key), () => null),
    set: (key, value) => tried((kept) => {
      kept.setItem(key, value);
      refused.delete(key);
    }, () => refused.set(key, value)),
    remove(key) {
      refused.delete(key);
      tried((kept) => kept.removeItem(key), () => null);
    },
  };
}

export const local = storage("localStorage");
export const session = storage("sessionStorage");
