declare module 'virtual:emoji' {
  /** As `emoji-data.ts` in the parent folder makes them. */
  const groups: readonly [
    name: string,
    emoji: readonly [emoji: string, label: string, names: string, words: string, version: number, hasTones?: 1][],
  ][];
  export default groups;
}

/** The same groups in another language. */
declare module 'virtual:emoji/*' {
  const groups: readonly [name: string, emoji: readonly [label: string, words: string][]][];
  export default groups;
}
