/** Something that changes and says so. The UI listens; the logic knows no more of it than this. */
export class Store {
  private listeners = new Set<() => void>();

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => {
      this.listeners.delete(listener);
    };
  }

  protected changed(): void {
    for (const listener of [...this.listeners]) listener();
  }
}
