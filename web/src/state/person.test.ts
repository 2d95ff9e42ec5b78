import { describe, expect, it } from 'vitest';
import { contrast } from './colour';
import { HUES, avatarColour, initials, personColour } from './person';

describe('initials', () => {
  it('are those of the first and last word', () => {
    expect(initials('mira')).toBe('M');
    expect(initials('Ada Lovelace')).toBe('AL');
    expect(initials('jean-paul de la croix')).toBe('JC');
    expect(initials('Σοφία Παππά')).toBe('ΣΠ');
    expect(initials('member 29')).toBe('M2');
    expect(initials('snake_case.name')).toBe('SN');
    expect(initials('7of9')).toBe('7');
  });

  it('are whole characters', () => {
    expect(initials('e\u0301mile')).toBe('E\u0301');
    expect(initials('👩‍🚀 crew')).toBe('👩‍🚀');
    expect(initials('🇫🇮')).toBe('🇫🇮');
    expect(initials('2️⃣ fast')).toBe('2️⃣');
    expect(initials('ßeta')).toBe('ß');
    expect(initials('𝔐artin')).toBe('𝔐');
  });

  it('are one character where letters have no capitals', () => {
    expect(initials('山田 太郎')).toBe('山');
    expect(initials('ליאת כהן')).toBe('ל');
    expect(initials('محمد علي')).toBe('م');
    expect(initials('ნინო ბერიძე')).toBe('ნ');
    expect(initials('ทดสอบ')).toBe('ท');
    expect(initials('김 민수')).toBe('김');
  });

  it('skip what stands for nothing, unless there is nothing else', () => {
    expect(initials('  «(anna)» ')).toBe('A');
    expect(initials('-_-')).toBe('-');
    expect(initials('***')).toBe('*');
    expect(initials('')).toBe('');
  });
});

describe('the colour of a person', () => {
  const all = Array.from({ length: HUES }, (_, i) => avatarColour(i));

  it('can be read with white text, and seen on the background of both themes', () => {
    for (const colour of all) {
      expect(contrast(colour, '#ffffff'), colour).toBeGreaterThanOrEqual(4.5);
      expect(contrast(colour, '#171614'), colour).toBeGreaterThanOrEqual(3);
    }
  });

  it('is one of many', () => {
    expect(new Set(all).size).toBe(HUES);
    const people = Array.from({ length: 200 }, (_, i) => personColour(`person ${i}`));
    expect(new Set(people).size).toBeGreaterThan(HUES - 4);
    expect(personColour('Mira')).toBe(personColour('Mira'));
  });
});
