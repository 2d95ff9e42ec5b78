/** Tells listeners of events. */
export class Emitter<E extends Record<string, unknown[]>> {
  private readonly listeners: { [K in keyof E]?: Set<(...args: E[K]) => void> } = {};

  /** Calls a function whenever something happens, until the function that this returns is called. */
  on<K extends keyof E>(event: K, listener: (...args: E[K]) => void): () => void {
    const listeners = (this.listeners[event] ??= new Set());
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
    };
  }

  protected emit<K extends keyof E>(event: K, ...args: E[K]): void {
    for (const listener of [...(this.listeners[event] ?? [])]) listener(...args);
  }
}
