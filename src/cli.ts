#!/usr/bin/env node
/**
 * Where the command line begins. In this file no syntax that Node.js 10 does not know, or it
 * would fail before the first import has said that it is too old.
 */
import "./base/node.ts";
import "./cli/main.ts";
