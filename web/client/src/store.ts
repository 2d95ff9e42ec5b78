/** Notifies listeners of changes. This is all that the logic knows about the UI. */
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
