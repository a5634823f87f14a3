/* SPDX-License-Identifier: MIT */
/*
 * The contents of volumes by agents (agent/server.h): for each volume that is
 * being read one helper container, started when it is needed and removed
 * AGENT_IDLE_SECONDS after it was last.  While it runs the engine holds the volume
 * to be in use.
 *
 * An agent that ends, is killed, or goes with the engine is replaced at the next
 * call; files are found again by their paths and identities.
 *
 * Any thread may call.
 */
#ifndef DVOLFS_VOLUME_AGENT_H
#define DVOLFS_VOLUME_AGENT_H

#include "base/log.h"
#include "volume/contents.h"
#include "volume/helper.h"

#define AGENT_IDLE_SECONDS 2

struct agents;
struct agent_link;

/* with_socket: false: always by the attach stream.  Starts a thread.  What is
 * given must outlive it. */
must_check int agents_start(struct helpers *helpers, struct log *log, bool with_socket,
                            struct agents **ret_agents, struct fail *why);
/* Ends all agents.  No contents may be left.  NULL is allowed. */
void agents_stop(struct agents *agents);

/* Whether agents may be had: false with why, once none could be started for either of
 * two volumes and none ever was.  Never blocks. */
bool agents_may_work(struct agents *agents, struct fail *why);
/* The engine may be another now: forgets what agents_may_work said. */
void agents_reconsider(struct agents *agents);

/*
 * The contents of a volume, an agent for it being started where there is none; a
 * new reference.  -ENOTSUP: there can be no agents on this engine, or perhaps not;
 * -ENOENT: no such volume; errors as starter_run.  Failures to start are logged.
 * Blocks.
 */
must_check int agents_contents(struct agents *agents, const char *volume, struct cancel *cancel,
                               struct contents **ret_contents, struct fail *why);

/* How an agent lets a volume be read. */
enum agents_how {
    AGENTS_DIRECTORY, /* its directory was handed over: this process reads it itself */
    AGENTS_FILES,     /* it is asked, and hands opened files over */
    AGENTS_BYTES,     /* it is asked, and sends their bytes */
};

/* The id of the container that holds the volume at the moment, malloc'ed, and how it lets it
 * be read; NULL: none does.  Never blocks. */
char *agents_helper(struct agents *agents, const char *volume, enum agents_how *ret_how);

/* ---- within the way (agent_contents.c) ---------------------------------------------- */

struct agent_volume;

/*
 * The volume's link, for one piece of work that ends with agent_volume_leave; a
 * reference.  Starts an agent where there is none.  Errors as agents_contents.
 */
must_check int agent_volume_enter(struct agent_volume *volume, struct cancel *cancel,
                                  struct agent_link **ret_link, struct fail *why);
void agent_volume_leave(struct agent_volume *volume, struct agent_link *link);

/* Between the two: the volume as this process can read it itself; a reference.  NULL: it has
 * to ask the agent. */
struct contents *agent_volume_here(struct agent_volume *volume);

/* The same without the link: the agent that runs, or is started, stays. */
void agent_volume_hold(struct agent_volume *volume);
void agent_volume_let_go(struct agent_volume *volume);

/* Contents count as users of their volume. */
void agent_volume_unref(struct agent_volume *volume);

/* Of agent_contents.c; takes over the caller's use of volume, also on failure. */
must_check int agent_contents_new(struct agent_volume *volume, struct contents **ret_contents);

#endif
