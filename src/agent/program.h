/* SPDX-License-Identifier: MIT */
/* The agent as a program (agent/main.c), to be put into an image: linked statically, it
 * needs nothing beside it.  src/meson.build makes it, scripts/embed puts it here. */
#ifndef DVOLFS_AGENT_PROGRAM_H
#define DVOLFS_AGENT_PROGRAM_H

#include <stddef.h>

/* An ELF executable of the machine that dvolfs was built for. */
extern const unsigned char agent_program[];
extern const size_t agent_program_bytes;

/* The first 16 hexadecimal digits of its SHA-256: of another program, another. */
extern const char agent_program_hash[];

#endif
