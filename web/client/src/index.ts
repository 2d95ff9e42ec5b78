/** The state of an Uproar chat: rooms, messages and unread counts, kept up to date over one connection. */
export * from './api.ts';
export * from './connection.ts';
export * from './errors.ts';
export * from './memory.ts';
export * from './outbox.ts';
export * from './reactors.ts';
export * from './room-list.ts';
export * from './room.ts';
export * from './store.ts';
export * from './timeline.ts';
