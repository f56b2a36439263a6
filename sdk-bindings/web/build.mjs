// Builds what this package and the page consist of.
//
//   node build.mjs             dist/index.js and its types
//   node build.mjs test        .test/*.mjs, the unit tests (Node 20 runs no TypeScript)
//   node build.mjs page        ../../server/page/dist, which is committed and embedded in the node
//   node build.mjs check-page  fails if that folder is not what `page` would write
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as esbuild from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const page = join(here, '../../server/page');
/** WebTransport and history are files of their own, loaded when they are first used. */
const CHUNKS = { splitting: true, chunkNames: '[name]-[hash]' };
const shared = { bundle: true, format: 'esm', target: 'es2022', logLevel: 'warning', absWorkingDir: here };

/**
 * A part of the library as it is weighed: minified, with what it imports unless that is named. What is loaded later only is
 * in `later`.
 */
export async function weigh(entry, external) {
  const options = { entryPoints: [entry], external, minify: true, write: false, outdir: '.', ...CHUNKS, metafile: true };
  const { outputFiles, metafile } = await esbuild.build({ ...shared, ...options });
  const outputs = Object.entries(metafile.outputs);
  const [name, main] = outputs.find(([, { entryPoint }]) => entryPoint === entry);
  const needed = new Set([name, ...main.imports.filter(({ kind }) => kind === 'import-statement').map(({ path }) => path)]);
  const bytes = (which) => Buffer.concat(outputs.flatMap(([path], at) => (needed.has(path) === which ? [outputFiles[at].contents] : [])));
  return { now: bytes(true), later: bytes(false) };
}

async function library() {
  rmSync(join(here, 'dist'), { recursive: true, force: true });
  const external = ['@bufbuild/protobuf'];
  await esbuild.build({ ...shared, ...CHUNKS, entryPoints: ['src/index.ts'], outdir: 'dist', sourcemap: true, external });
  const tsc = join(here, 'node_modules/typescript/bin/tsc');
  const types = ['--declaration', '--emitDeclarationOnly', '--rootDir', 'src', '--outDir', 'dist/types'];
  execFileSync(process.execPath, [tsc, '-p', 'tsconfig.build.json', ...types], { cwd: here, stdio: 'inherit' });
}

async function tests() {
  const outdir = join(here, '.test');
  rmSync(outdir, { recursive: true, force: true });
  const entryPoints = readdirSync(join(here, 'test')).filter((name) => name.endsWith('.test.ts'));
  await esbuild.build({
    ...shared,
    ...{ entryPoints: entryPoints.map((name) => `test/${name}`), outdir, outExtension: { '.js': '.mjs' } },
    ...{ platform: 'node', packages: 'external', sourcemap: 'inline' },
  });
}

/** The files of the page, by name. */
async function pageFiles() {
  const { outputFiles } = await esbuild.build({
    ...shared,
    ...{ entryPoints: [join(page, 'src/app.ts'), join(page, 'src/app.css')], outdir: join(page, 'dist/assets') },
    ...{ minify: true, write: false, legalComments: 'none', nodePaths: [join(here, 'node_modules')] },
    alias: { '@lanecast/client': join(here, 'src/index.ts') },
  });
  const files = new Map(outputFiles.map((file) => [relative(join(page, 'dist'), file.path), Buffer.from(file.contents)]));
  files.set('index.html', readFileSync(join(page, 'src/index.html')));
  files.set('assets/icon.svg', readFileSync(join(page, 'src/icon.svg')));
  return files;
}

async function writePage() {
  rmSync(join(page, 'dist'), { recursive: true, force: true });
  for (const [name, bytes] of await pageFiles()) {
    mkdirSync(dirname(join(page, 'dist', name)), { recursive: true });
    writeFileSync(join(page, 'dist', name), bytes);
  }
}

async function checkPage() {
  const files = await pageFiles();
  const stale = [...files].filter(([name, bytes]) => {
    const path = join(page, 'dist', name);
    return !existsSync(path) || !readFileSync(path).equals(bytes);
  });
  if (!stale.length) return;
  console.error(`server/page/dist is stale (${stale.map(([name]) => name).join(', ')}); run \`npm run page\``);
  process.exitCode = 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const commands = { build: library, test: tests, page: writePage, 'check-page': checkPage };
  const command = commands[process.argv[2] ?? 'build'];
  if (!command) throw new Error(`unknown command ${process.argv[2]}`);
  await command();
}
