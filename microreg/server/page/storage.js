// What a browser keeps for the page: the token for as long as the tab is open, the theme for longer.

/** A value in "sessionStorage" or "localStorage"; null where there is none, or browsers are told to keep nothing. */
export function kept(kind, key) {
  try {
    return window[kind].getItem(key);
  } catch {
    return null;
  }
}

/** Keep a value there, or nothing any more (null). */
export function keep(kind, key, value) {
  try {
    if (value === null) window[kind].removeItem(key);
    else window[kind].setItem(key, value);
  } catch {
    // It is as good as kept until the page is loaded again.
  }
}
