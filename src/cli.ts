#!/usr/bin/env node
/**
 * The command line begins here. This file uses only syntax that Node.js 10 knows: with other
 * syntax it would fail before the first import can say that Node.js is too old.
 */
import "./base/node.ts";
import "./cli/main.ts";
