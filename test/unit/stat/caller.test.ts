import { expect, test } from "vitest";
import { caller } from "../../../src/stat/caller.ts";

const LOGIN = { name: "ann", home: "/home/ann", shell: "/bin/zsh", groups: [1000, 27] };
const find = (uid: number, gid: number) => (uid === 1000 && gid === 1000 ? LOGIN : undefined);
const NOT_ROOTS = ["MAIL", "SUDO_COMMAND", "SUDO_GID", "SUDO_HOME", "SUDO_UID", "SUDO_USER"];
const NOBODY_ELSE = { identity: undefined, environment: [] };

test("under sudo it is the user who called, with groups and home", () => {
  expect(caller({ SUDO_UID: "1000", SUDO_GID: "1000", SUDO_USER: "x" }, 0, find)).toEqual({
    identity: { uid: 1000, gid: 1000, groups: [1000, 27] },
    environment: [...["HOME=/home/ann", "SHELL=/bin/zsh", "USER=ann", "LOGNAME=ann"], ...NOT_ROOTS],
  });
});

test("a user without an account keeps sudo's name, and has one group", () => {
  expect(caller({ SUDO_UID: "7", SUDO_GID: "8", SUDO_USER: "bob" }, 0, find)).toEqual({
    identity: { uid: 7, gid: 8, groups: [8] },
    environment: ["USER=bob", "LOGNAME=bob", ...NOT_ROOTS],
  });
});

test.each([
  ["without sudo", {}, 0],
  ["called by root", { SUDO_UID: "0", SUDO_GID: "0" }, 0],
  ["as another user than root", { SUDO_UID: "1000", SUDO_GID: "1000" }, 1000],
  ["without a group", { SUDO_UID: "1000" }, 0],
  ["with what is no number", { SUDO_UID: "x", SUDO_GID: "1000" }, 0],
  ["with what would change nothing", { SUDO_UID: "4294967295", SUDO_GID: "1000" }, 0],
])("%s it is this process's user", (_, environment, user) => {
  expect(caller(environment, user, find)).toEqual(NOBODY_ELSE);
});
