/** A site of its own, whose pages show rooms. */
import { createServer } from 'node:http';
import { freePort } from './server';

export interface Page {
  html: string;
  policy?: string;
}

export interface Site {
  port: number;
  /** The origin of the same port on another host than the server's, which makes it another site. */
  besides(server: string): string;
  /** What it serves, by path. */
  pages: Map<string, Page>;
  /** Answers `GET /chat-token?user=NAME`, which it counts. A status other than 200: nobody is signed in. */
  token: (user: string) => { status?: number; text: string };
  asked: number;
  end(): Promise<void>;
}

export async function startSite(): Promise<Site> {
  const port = await freePort();
  const server = createServer(({ url = '/' }, response) => {
    const { pathname, searchParams } = new URL(url, 'http://localhost');
    if (pathname === '/chat-token') {
      site.asked++;
      const { status = 200, text } = site.token(searchParams.get('user') ?? 'ann');
      response.writeHead(status).end(text);
      return;
    }
    const page = site.pages.get(pathname);
    response.writeHead(page ? 200 : 404, {
      'Content-Type': 'text/html; charset=utf-8',
      ...(page?.policy ? { 'Content-Security-Policy': page.policy } : {}),
    });
    response.end(page?.html);
  });
  const site: Site = {
    port,
    besides: (server) => `http://${new URL(server).hostname === 'localhost' ? '127.0.0.1' : 'localhost'}:${port}`,
    pages: new Map(),
    token: () => ({ text: '' }),
    asked: 0,
    end: () => new Promise((done) => {
      server.close(() => done());
      server.closeAllConnections();
    }),
  };
  await new Promise<void>((done) => server.listen(port, '127.0.0.1', done));
  return site;
}
