/**
 * How this program starts itself again as another process. From the sources that is Bun, with the options it was given, and the
 * script; the executable of `bun run build` is the program, and its modules lie in a file system of its own.
 */

/** Where Bun keeps the modules of an executable. */
const IN_EXECUTABLE = /^(?:\/\$bunfs\/|[A-Z]:[\\/]~BUN[\\/])/i;

export interface RunningProgram {
  /** `process.execPath` */
  readonly execPath: string;
  /** `process.execArgv` */
  readonly execArgv: readonly string[];
  /** `Bun.main` */
  readonly main: string;
}

export function ownCommand(program: RunningProgram, args: readonly string[]): readonly string[] {
  if (IN_EXECUTABLE.test(program.main)) return [program.execPath, ...args];
  return [program.execPath, ...program.execArgv, program.main, ...args];
}
