import { describe, expect, it } from 'vitest';
import { ApiError, SendError } from '@uproar/client';
import { check, errorText } from './errors';
import { british } from './texts/british';

describe('errorText', () => {
  it('is the page’s own', () => {
    const error = new ApiError('invalid_field', 'must be at most 254 bytes long', 'email', 422);
    expect(errorText(error, british)).toBe('This doesn’t look like an email address.');
    expect(errorText(new ApiError('text_too_large', 'the text has 17000 bytes', 'text'), british)).toBe(
      'This message is too long.',
    );
    expect(errorText(new SendError('too_many_reactions', false), british)).toBe(
      'This message can’t have more reactions.',
    );
    // As it is in the outbox after a reload.
    const kept = { code: 'no_answer', message: 'the server did not answer' };
    expect(errorText(kept, british)).toContain('won’t send it twice');
  });

  it('is the server’s, as a sentence, for what the page does not know', () => {
    expect(errorText(new ApiError('new_code', 'try again tomorrow'), british)).toBe('Try again tomorrow.');
    expect(errorText(new ApiError('invalid_field', 'must be a number', 'limit'), british)).toBe('Must be a number.');
  });
});

describe('check', () => {
  const account = { username: 'ann', email: 'ann@example.org', password: 'correct horse' };

  it('accepts what the server accepts', () => {
    for (const username of ['a', 'Jürgen Müller', '日本', '👩‍🚀'])
      expect(check({ ...account, username })).toBeUndefined();
    expect(check({ ...account, password: '👍'.repeat(8), email: 'ann@bücher.example' })).toBeUndefined();
  });

  it('names the field, and counts characters', () => {
    const wrong = (change: Partial<typeof account>) => {
      const error = check({ ...account, ...change });
      return [error?.field, errorText(error, british)];
    };
    expect(wrong({ username: ' ' })).toEqual(['username', 'Choose a username.']);
    expect(wrong({ username: '👩‍🚀'.repeat(33) })).toEqual([
      'username',
      'A username has up to 32 characters. This one has 33.',
    ]);
    expect(check({ ...account, username: '👩‍🚀'.repeat(23) })).toBeUndefined();
    expect(wrong({ username: '👩‍🚀'.repeat(24) })).toEqual([
      'username',
      'This username is too long: an emoji counts as several letters.',
    ]);
    expect(wrong({ username: '\u2800' })).toEqual(['username', 'Choose a username.']);
    expect(wrong({ username: '@ann' })[0]).toBe('username');
    expect(wrong({ email: 'ann' })[0]).toBe('email');
    expect(wrong({ password: '👍'.repeat(7) })).toEqual(['password', 'A password has at least 8 characters.']);
    expect(wrong({ password: '👨‍👩‍👧‍👦'.repeat(30) })).toEqual([
      'password',
      'This password is too long: an emoji counts as several letters.',
    ]);
    expect(check({ ...account, password: '각'.normalize('NFD').repeat(100) })).toBeUndefined();
  });
});
