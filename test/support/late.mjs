/** Programs that the kernel refuses late: when it has put them in the place of the old one. */

/**
 * An ELF file with a segment that is larger in the file than in memory: execve fails with
 * EINVAL, which no program sees, and SIGSEGV ends the task.
 *
 * @param {32 | 64} bits
 */
export function lateFile(bits, arch = process.arch) {
  const file = Buffer.alloc(4096);
  const wide = bits === 64;
  const word = (value, offset) =>
    wide ? file.writeBigUInt64LE(BigInt(value), offset) : file.writeUInt32LE(value, offset);
  const machines = { x64: { 32: 3, 64: 62 }, arm64: { 32: 40, 64: 183 } };
  const [headerSize, segmentSize] = wide ? [64, 56] : [52, 32];
  file.write(`\x7fELF${wide ? "\x02" : "\x01"}\x01\x01`, "latin1");
  file.writeUInt16LE(2, 16); // not relocatable
  file.writeUInt16LE(machines[arch][bits], 18);
  file.writeUInt32LE(1, 20);
  const address = 0x800_0000;
  word(address, 24);
  word(headerSize, wide ? 32 : 28);
  file.writeUInt32LE(arch === "arm64" && !wide ? 5 << 24 : 0, wide ? 48 : 36); // the EABI's version
  file.writeUInt16LE(headerSize, headerSize - 12);
  file.writeUInt16LE(segmentSize, headerSize - 10);
  file.writeUInt16LE(1, headerSize - 8);
  const [inFile, inMemory, align] = [0x1000, 0x10, 0x1_0000];
  file.writeUInt32LE(1, headerSize); // to be loaded
  if (wide) {
    file.writeUInt32LE(5, headerSize + 4);
    [0, address, address, inFile, inMemory, align].forEach((value, i) => {
      word(value, headerSize + 8 + 8 * i);
    });
  } else {
    [0, address, address, inFile, inMemory, 5, align].forEach((value, i) => {
      word(value, headerSize + 4 + 4 * i);
    });
  }
  return file;
}
