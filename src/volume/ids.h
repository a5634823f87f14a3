/* SPDX-License-Identifier: MIT */
#ifndef DVOLFS_VOLUME_IDS_H
#define DVOLFS_VOLUME_IDS_H

#include <stdbool.h>

/* Whether a process' user and group ids are those of this one's machine, all of them
 * (user_namespaces(7)): files have the same owners for both. */
bool ids_are_own(int pid);

/* Whether this process may read every file and search every directory, whosever they are
 * (CAP_DAC_READ_SEARCH, capabilities(7)). */
bool ids_may_read_all(void);

#endif
