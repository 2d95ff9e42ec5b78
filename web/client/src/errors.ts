/** Errors have a code for programs, and a message in English for programmers. */
import { type Data, kindOf } from './timeline.ts';

/**
 * What failed. The server's codes are those of its HTTP API. The client's own are `network` (the server can't be
 * reached) and those in `MESSAGES`.
 */
export class ChatError extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** An error that the HTTP API returned, with the field it concerns, or `network`, if it can't be reached. */
export class ApiError extends ChatError {
  constructor(
    code: string,
    message: string,
    readonly field: string | null = null,
    readonly status = 0,
  ) {
    super(code, message);
  }
}

const MESSAGES = {
  closed: 'the client is closed',
  discarded: 'the message was discarded before it was stored',
  no_answer: 'the server did not answer in time; sending again stores nothing twice',
  no_connection: 'no answer from the server; sending again stores nothing twice',
  no_such_room: 'the room does not exist',
  not_allowed: 'this is not allowed',
  not_member: 'the user is not a member of this room',
  not_subscribed: 'the room is not available right now',
  previous_message: 'an earlier message must be sent first',
  rate_limited: 'too many requests',
  silenced: 'the user is silenced, and can only read for now',
  text_too_large: 'the text is too long',
  signed_out: 'the server no longer accepts this token; sign in again',
  too_many_reactions: 'the message cannot have more reactions',
  unsettled: 'the messages cannot be loaded right now',
  wrong_epoch: 'the room is another one than when this was written, or its history went back',
} as const;

export type ClientCode = keyof typeof MESSAGES;

/** An error of the client's own. */
export function clientError(code: ClientCode): ChatError {
  return new ChatError(code, MESSAGES[code]);
}

export function toChatError(error: unknown): ChatError {
  if (error instanceof ChatError) return error;
  return new ChatError('unknown', error instanceof Error ? error.message : `${error}`);
}

/**
 * Why sending failed. `temporary`: sending again may help. `isUnknown`: the message may have been stored. The code is
 * `refused` if the message is the server's.
 */
export class SendError extends ChatError {
  constructor(
    code: ClientCode | 'refused',
    readonly temporary: boolean,
    readonly isUnknown = temporary,
    message = code === 'refused' ? '' : MESSAGES[code],
  ) {
    super(code, message);
  }
}

/** Translates an error from the SDK or the server to what was sent, and says whether sending again can help. */
export function toSendError(error: unknown, sent: Data): SendError {
  if (error instanceof SendError) return error;
  const { code, message } = (error ?? {}) as { code?: number; message?: string };
  switch (code) {
    case 100:
      return new SendError('no_answer', true);
    case 102:
      return new SendError('no_such_room', false);
    case 103:
      return new SendError(message?.startsWith('silenced') ? 'silenced' : 'not_allowed', false);
    case 106:
      return new SendError(kindOf(sent) === 'react' ? 'too_many_reactions' : 'text_too_large', false);
    case 111:
      return new SendError('rate_limited', true, false);
    case 112:
      return new SendError('wrong_epoch', false);
    default:
      if (code !== undefined && code >= 100) return new SendError('refused', false, false, message || `error ${code}`);
      // Codes below 100 are the SDK's own: a timeout, a lost connection.
      return new SendError('no_connection', true);
  }
}
