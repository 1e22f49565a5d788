/** Splits Markdown into blocks, so that finished blocks are not parsed again while the rest arrives. Pure. */

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const LIST_ITEM = /^ {0,3}(?:[-*+]|\d{1,9}[.)])\s/;

/** Blocks that render the same on their own; only the last one can still change. */
export function splitBlocks(text) {
  const found = [];
  let current = [];
  let fence = null;
  let blank = false;
  for (const line of text.split('\n')) {
    const mark = FENCE.exec(line)?.[1];
    const continues = /^\s/.test(line) || (LIST_ITEM.test(line) && LIST_ITEM.test(current[0] ?? ''));
    if (!fence && blank && line.trim() && current.length && !continues) {
      found.push(current.join('\n'));
      current = [];
    }
    if (
      fence &&
      mark &&
      mark[0] === fence[0] &&
      mark.length >= fence.length &&
      !line.trim().slice(mark.length)
    )
      fence = null;
    else if (!fence && mark) fence = mark;
    blank = !line.trim();
    if (current.length || !blank) current.push(line);
  }
  if (current.length) found.push(current.join('\n'));
  return found;
}

/** Splits off reasoning in a `<think>` tag, closed or still open → {thinking, text}. */
export function splitThinking(text) {
  const match = /^\s*<think>([\s\S]*?)(?:<\/think>([\s\S]*))?$/.exec(text);
  return match ? { thinking: match[1].trim(), text: (match[2] ?? '').trimStart() } : { thinking: '', text };
}
