/** Not a test: draws the pictures of the README. */
import { type Page } from 'playwright-core';
import { it } from 'vitest';
import { composer, said, world } from './browser';
import { createDemoRoom, people } from './demo-room';

const the = world();
const FOLDER = '../docs/screenshots';

it('screenshots', { timeout: 60_000 }, async () => {
  const draw = (page: Page, name: string) => page.screenshot({ path: `${FOLDER}/${name}.png` });
  const toNewest = async (page: Page) => {
    await page.getByRole('button', { name: /↓/ }).click();
    await page.locator('.to-newest').waitFor({ state: 'detached' });
    await page.waitForTimeout(500);
  };
  const token = await createDemoRoom(the);
  const rooms = { Announcements: 0, 'Bicycle repair': 3, Books: 0, Garden: 12, 'Neighbours, upstairs': 0, 'Saturday market': 1, 'שיחה': 0 };
  for (const [title, unread] of Object.entries(rooms)) {
    const name = `r-${Object.keys(rooms).indexOf(title)}`;
    await the.room(token['Ada']!, name, title);
    await the.join(token['Mira']!, name);
    for (let i = 1; i <= unread; i++) await the.say(token['Ada']!, name, `Number ${i}`);
  }
  const look = async (width: number, height: number, colorScheme: 'light' | 'dark'): Promise<Page> => {
    const context = await the.context({ viewport: { width, height }, colorScheme, hasTouch: width < 500 });
    return the.tab(context);
  };

  const light = await look(1180, 720, 'light');
  await light.goto(the.server.page);
  await light.getByLabel('Username or email').fill('Mira');
  await draw(light, 'sign-in');
  await the.signIn(light, 'Mira', 'kitchen');
  await said(light, 'See you on Saturday').waitFor();
  await said(light, 'I will be there at nine').hover();
  await light.getByRole('button', { name: 'React' }).click();
  await light.getByRole('button', { name: '😂' }).click();
  await light.getByRole('button', { name: '😂, 1' }).waitFor();

  const others: Page[] = [];
  for (const name of people.slice(1)) others.push(await the.signedIn(name, 'kitchen'));
  await said(others[0]!, 'I will be there at nine').hover();
  await others[0]!.getByRole('button', { name: '😂, 1' }).click();
  await light.getByRole('button', { name: '😂, 2' }).waitFor();
  await light.getByRole('button', { name: '5 online' }).waitFor();
  await light.mouse.move(0, 0);
  await composer(light).focus();
  await composer(others[2]!).pressSequentially('I have');
  await light.getByText('Tomás is typing').waitFor();
  await toNewest(light);
  await draw(light, 'room-light');

  const dark = await look(1180, 720, 'dark');
  await the.signIn(dark, 'Mira', 'kitchen');
  await said(dark, 'See you on Saturday').waitFor();
  await dark.getByRole('button', { name: '5 online' }).click();
  await dark.getByRole('complementary', { name: 'People' }).getByText('owner').waitFor();
  await said(dark, 'I will be there at nine').hover();
  await draw(dark, 'room-dark');

  const phone = await look(390, 720, 'light');
  await the.signIn(phone, 'jonas', 'kitchen');
  await said(phone, 'See you on Saturday').waitFor();
  await toNewest(phone);
  await draw(phone, 'phone');
});
