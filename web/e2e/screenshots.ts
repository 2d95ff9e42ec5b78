/** Takes the screenshots for the README. */
import { type Page } from 'playwright-core';
import { it } from 'vitest';
import { composer, createWorld, messageText } from './browser';
import { createDemoRoom, people } from './demo-room';

const world = createWorld();
const FOLDER = '../docs/screenshots';

it('screenshots', { timeout: 60_000 }, async () => {
  const take = (page: Page, name: string) => page.screenshot({ path: `${FOLDER}/${name}.png` });
  const toNewest = async (page: Page) => {
    await page.locator('.scroller').evaluate((scroller) => scroller.scrollTo(0, scroller.scrollHeight));
    await page.locator('.to-newest').waitFor({ state: 'detached' });
    await page.waitForTimeout(500);
  };
  const token = await createDemoRoom(world);
  const rooms = {
    Announcements: 0,
    'Bicycle repair': 3,
    Books: 0,
    Garden: 12,
    'Neighbours, upstairs': 0,
    'Saturday market': 1,
    'שיחה': 0,
  };
  for (const [title, unread] of Object.entries(rooms)) {
    const name = `r-${Object.keys(rooms).indexOf(title)}`;
    await world.room(token['Ada']!, name, title);
    await world.join(token['Mira']!, name);
    for (let i = 1; i <= unread; i++) await world.say(token['Ada']!, name, `Number ${i}`);
  }
  const openPage = async (width: number, height: number, colorScheme: 'light' | 'dark'): Promise<Page> => {
    const context = await world.context({ viewport: { width, height }, colorScheme, hasTouch: width < 500 });
    return world.newTab(context);
  };

  const light = await openPage(1180, 720, 'light');
  await light.goto(world.server.page);
  await light.getByLabel('Username or email').fill('Mira');
  await take(light, 'sign-in');
  await world.signIn(light, 'Mira', 'kitchen');
  await messageText(light, 'See you on Saturday').waitFor();
  await messageText(light, 'I’ll be there at nine').hover();
  await light.getByRole('button', { name: 'React' }).click();
  await light.getByRole('button', { name: '😂' }).click();
  await light.getByRole('button', { name: '😂, 1' }).waitFor();

  const others: Page[] = [];
  for (const name of people.slice(1)) others.push(await world.signedIn(name, 'kitchen'));
  await messageText(others[0]!, 'I’ll be there at nine').hover();
  await others[0]!.getByRole('button', { name: '😂, 1' }).click();
  await light.getByRole('button', { name: '😂, 2' }).waitFor();
  await light.getByRole('button', { name: '5 online' }).waitFor();
  await light.mouse.move(0, 0);
  await composer(light).focus();
  await composer(others[2]!).pressSequentially('I have');
  await light.getByText('Tomás is typing').waitFor();
  await toNewest(light);
  await take(light, 'room-light');

  const dark = await openPage(1180, 720, 'dark');
  await world.signIn(dark, 'Mira', 'kitchen');
  await messageText(dark, 'See you on Saturday').waitFor();
  await dark.getByRole('button', { name: '5 online' }).click();
  await dark.getByRole('complementary', { name: 'Members' }).getByText('Owner').waitFor();
  await messageText(dark, 'I’ll be there at nine').hover();
  await take(dark, 'room-dark');

  const phone = await openPage(390, 720, 'light');
  await world.signIn(phone, 'jonas', 'kitchen');
  await messageText(phone, 'See you on Saturday').waitFor();
  await toNewest(phone);
  await take(phone, 'phone');
});
