import { expect, it } from 'vitest';
import { SendError, toSendError } from './errors.ts';

it('an error of sending has a code, and says whether to try again', () => {
  const text = { text: 'x' };
  expect(toSendError({ code: 106, message: 'the text has 17000 bytes' }, text)).toMatchObject({
    code: 'text_too_large',
    temporary: false,
    isUnknown: false,
  });
  expect(toSendError({ code: 106 }, { react: 1, emoji: '👍' })).toMatchObject({ code: 'too_many_reactions' });
  expect(toSendError({ code: 111 }, text)).toMatchObject({ code: 'rate_limited', temporary: true, isUnknown: false });
  const silenced = { code: 103, message: 'silenced until 2026-12-01T17:05:00Z' };
  expect(toSendError(silenced, text)).toMatchObject({ code: 'silenced', temporary: false });
  expect(toSendError({ code: 103, message: 'no' }, text)).toMatchObject({ code: 'not_allowed' });
  // Of the SDK: the connection broke.
  expect(toSendError({ code: 11 }, text)).toMatchObject({ code: 'no_connection', temporary: true, isUnknown: true });
  expect(toSendError({ code: 107, message: 'the id was used' }, text)).toMatchObject({
    code: 'refused',
    message: 'the id was used',
  });
  const error = new SendError('not_member', false);
  expect(toSendError(error, text)).toBe(error);
});
