/** A room with a conversation, for screenshots and tests of the layout. */
import { type World } from './browser';
import { post } from './server';

/** The widest possible name. */
export const WIDE = 'W'.repeat(32);
export const ARABIC = 'مرحبا بالعالم، هذه رسالة طويلة بعض الشيء من اليمين إلى اليسار';

export const people = ['Mira', 'jonas', 'Ada', 'Tomás', 'ליאת'];

/**
 * Creates the room and returns the tokens of its members by name. With `extra` members it also contains long words and
 * a long text from right to left.
 */
export async function createDemoRoom(world: World, extra: readonly string[] = []): Promise<Record<string, string>> {
  const token: Record<string, string> = {};
  for (const name of [...people, ...extra]) token[name] = await world.account(name);
  await world.room(token['Mira']!, 'kitchen', 'The kitchen');
  for (const name of [...people, ...extra].slice(1)) await world.join(token[name]!, 'kitchen');
  const say = (name: string, text: string) => world.say(token[name]!, 'kitchen', text);
  const reply = (name: string, text: string, to: number) =>
    post(world.server, '/rooms/kitchen/messages', { text, reply_to: to }, token[name]);
  await say('Mira', 'Morning! The new oven is in. Who wants to bake on Saturday?');
  await say('Mira', 'It fits four trays.');
  const offer = await say('jonas', 'Me! I can bring flour, butter and a sourdough that’s older than my daughter.');
  await reply('Ada', 'How old is she?', offer);
  await say('jonas', 'Eight in March. The sourdough is eleven.');
  await say('Tomás', 'Recipe: https://example.org/bread/rye?hydration=78&salt=2 – takes two hours less than it says.');
  await say('Tomás', '@Mira how hot does it get?');
  await say('Mira', '280 °C, and it holds it.');
  for (const name of extra) await say(name, `A word without an end: ${'Donaudampfschifffahrtsgesellschaft'.repeat(9)}`);
  await say('ליאת', 'שבת בבוקר מתאים לי, אביא גם זיתים');
  if (extra.length > 0) await say('ליאת', ARABIC);
  await say('Ada', 'The plan:\n  9:00 dough\n 12:00 oven\n 14:00 everyone eats');
  await say('Ada', 'I’ll be there at nine. Someone has to keep Jonas away from the butter.');
  await say('Mira', 'Sorted, then. See you on Saturday!');
  return token;
}
