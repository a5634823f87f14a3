/* SPDX-License-Identifier: MIT */
/*
 * Which process something belongs to, in a form that another process can check
 * later: "BOOT:PIDNS:PID:START", with the kernel's boot id (random(4)), the
 * pid namespace's inode (namespaces(7)), the pid and its start time in ticks
 * since boot (field 22 of /proc/PID/stat, proc(5)).
 */
#ifndef DVOLFS_VOLUME_OWNER_H
#define DVOLFS_VOLUME_OWNER_H

#include "base/cleanup.h"

#include <stdint.h>

#define OWNER_BYTES 128

/* This process.  Writes a string; -EIO where /proc does not tell. */
must_check int owner_self(char ret_owner[OWNER_BYTES]);

enum owner_state {
    OWNER_ALIVE,
    OWNER_DEAD,
    OWNER_UNKNOWN, /* of another machine or pid namespace, or unreadable */
};

/*
 * What became of an owner.  born_s is when its thing was made, seconds since
 * 1970: an owner of another boot is dead where that was before this boot, else
 * it is on another machine.
 */
enum owner_state owner_check(const char *owner, int64_t born_s);

#endif
