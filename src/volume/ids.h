/* SPDX-License-Identifier: MIT */
#ifndef DVOLFS_VOLUME_IDS_H
#define DVOLFS_VOLUME_IDS_H

#include <stdbool.h>

/* Whether a process' user and group ids are the machine's, all of them, as far as this one
 * can tell (user_namespaces(7)): where that is so of both, files have the same owners for
 * both. */
bool ids_are_own(int pid);

/* Whether this process may read every file and search every directory, whosever they are
 * (CAP_DAC_READ_SEARCH, capabilities(7)). */
bool ids_may_read_all(void);

#endif
