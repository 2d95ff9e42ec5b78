/** A client for Uproar chat servers: rooms, messages and unread counts, kept up to date over one connection. */
export {
  type Account,
  type Api,
  type Ban,
  type Fetch,
  type FoundRoom,
  type Member,
  type Members,
  type Credentials,
  type SignedIn,
  call,
  signIn,
  signUp,
} from './api.ts';
export { Client, type ClientEvents, type LiveMessage, type Options, connect } from './client.ts';
export { Emitter } from './emitter.ts';
export { ApiError, ChatError, type ClientCode, SendError, clientError } from './errors.ts';
export { type Item, type Outbox, countPending, isOffset } from './outbox.ts';
export { type Reactors } from './reactors.ts';
export { type RoomInfo, RoomList, UNREAD_LIMIT, parseNames } from './room-list.ts';
export { type Quote, Room, type RoomEvents, type RoomMessage, type UnsentMessage } from './room.ts';
export { BrowserStorage, Memory, type StorageLike } from './storage.ts';
export { Store } from './store.ts';
export { backoff, wait } from './time.ts';
export {
  type Data,
  type MemberChange,
  type Message,
  type Publication,
  type Reaction,
  type Role,
  type RoomSettings,
  Timeline,
  type User,
  kindOf,
} from './timeline.ts';
export { type GetToken, isSignedOut } from './tokens.ts';
