import { describe, expect, it, vi } from 'vitest';
import { Host } from './host';

const WISHES = { room: 'lobby', theme: 'dark', language: 'de', hasToken: true, isSeen: false };

/** A site that gives these answers to requests for a token. */
function site(...answers: object[]) {
  const sent: object[] = [];
  const port = {
    onmessage: null as ((event: MessageEvent) => void) | null,
    postMessage(message: object) {
      sent.push(message);
      const answer = 'ask' in message ? answers.shift() : undefined;
      if (answer) queueMicrotask(() => port.say(answer));
    },
    say: (data: object) => port.onmessage!({ data } as MessageEvent),
  };
  return { host: new Host(port as unknown as MessagePort, WISHES), port, sent };
}

describe('the site around a frame', () => {
  it('has wishes that change', () => {
    const { host, port } = site();
    expect(host.wishes).toEqual(WISHES);
    const changed = vi.fn();
    host.subscribe(changed);
    port.say({ room: ' garden ', isSeen: true, more: 1 });
    expect(host.wishes).toEqual({ room: 'garden', theme: '', language: '', hasToken: false, isSeen: true });
    expect(changed).toHaveBeenCalledOnce();
  });

  it('gives tokens', async () => {
    const { host, sent } = site({ token: 'a.b-c_d.e\n' });
    expect(await host.token()).toBe('a.b-c_d.e');
    expect([host.isSignedIn, sent]).toEqual([true, [{ ask: true }]]);
  });

  it('may have no token, or something else', async () => {
    const cases: [object, string, boolean][] = [
      [{ token: null }, 'token_missing', false],
      [{ token: ' ' }, 'token_missing', false],
      [{ token: 'ä' }, 'token_invalid', true],
      [{ token: {} }, 'token_invalid', true],
      [{ failed: true }, 'no_site_token', true],
    ];
    for (const [answer, code, isSignedIn] of cases) {
      const { host } = site({ token: 'x' }, answer);
      await host.token();
      await expect(host.token()).rejects.toMatchObject({ code });
      expect(host.isSignedIn).toBe(isSignedIn);
    }
  });

  it('is asked once at a time', async () => {
    const { host, sent } = site({ token: 'x' });
    expect(await Promise.all([host.token(), host.token()])).toEqual(['x', 'x']);
    expect(sent).toEqual([{ ask: true }]);
  });

  it('has limited time to answer', async () => {
    vi.useFakeTimers();
    const { host } = site();
    const token = expect(host.token()).rejects.toMatchObject({ code: 'no_site_token' });
    await vi.runAllTimersAsync();
    await token;
    vi.useRealTimers();
  });
});
