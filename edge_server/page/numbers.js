// Numbers for people.

export const count = (n) => n.toLocaleString("en");
export const percent = (share) => `${Math.round(share * 100)} %`;

export function bytes(n) {
  return n >= 1e9 ? `${(n / 1e9).toFixed(1)} GB` : n >= 1e6 ? `${Math.round(n / 1e6)} MB` : `${Math.ceil(n / 1e3)} kB`;
}

/** US dollars: with cents, or with two digits that count where it is less. */
export function usd(n) {
  if (n === 0 || n >= 0.1) return `$${n.toFixed(2)}`;
  return n < 1e-6 ? "$0.000001" : `$${n.toFixed(Math.ceil(-Math.log10(n)) + 1)}`;
}

export const counted = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;
