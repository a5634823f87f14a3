/* SPDX-License-Identifier: MIT */
/*
 * A reader takes the schema for nothing but what is written in store/index_form.c, so
 * that SQLite does what is expected of each statement.  An entry is packed as agent/file.h
 * has it and taken apart again, because that is where what comes from elsewhere is checked.
 */
#include "store/index_form.h"
#include "store/pagefile.h"

#include <string.h>

#define CACHE "-2048" /* KiB */

/* ---- opening ------------------------------------------------------------------- */

enum {
    STATEMENT_GET,
    STATEMENT_FIRST, /* the same, for the first name of a second one */
    STATEMENT_FIND,
    STATEMENT_LIST,
    STATEMENT_FRAMES,
    STATEMENT_META,
    STATEMENT_COUNT,
};

static const char *const statements[STATEMENT_COUNT] = {
    [STATEMENT_GET] = "SELECT * FROM entry WHERE id=?1",
    [STATEMENT_FIRST] = "SELECT * FROM entry WHERE id=?1",
    [STATEMENT_FIND] = "SELECT * FROM entry WHERE parent=?1 AND name=?2",
    [STATEMENT_LIST] = "SELECT * FROM entry WHERE parent=?1 AND name>?2 ORDER BY name LIMIT ?3",
    [STATEMENT_FRAMES] = "SELECT number, key FROM frame ORDER BY number",
    [STATEMENT_META] = "SELECT value FROM meta WHERE key=?1",
};

struct index {
    struct pagefile *file;
    struct index_about about;
    pthread_mutex_t lock; /* of all below */
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    struct buf record; /* of the entry that is being read */
};

/* A statement in use; its end is the end of the scope. */
static void reset_statement(sqlite3_stmt **stmt)
{
    (void)sqlite3_reset(*stmt);
    (void)sqlite3_clear_bindings(*stmt);
}
#define cleanup_statement cleanup(reset_statement)

static int read_failed(struct index *index, struct fail *why)
{
    int error = index_form_errno(sqlite3_extended_errcode(index->db));
    if (error != EIO && error != ENOMEM) /* nothing else comes of a sound index */
        return index_form_damaged(why);
    if (error == EIO)
        error = pagefile_errno(index->file);
    return fail_errno(why, error, "cannot read the index");
}

/* The next row: 1, or 0 at the end. */
static int step(struct index *index, sqlite3_stmt *stmt, struct fail *why)
{
    int r = sqlite3_step(stmt);
    if (r == SQLITE_ROW || r == SQLITE_DONE)
        return r == SQLITE_ROW;
    return read_failed(index, why);
}

static int configure(struct index *index, struct fail *why)
{
    static const int limits[][2] = {
        {SQLITE_LIMIT_LENGTH, INDEX_FORM_VALUE_MAX_BYTES + 65536},
        {SQLITE_LIMIT_SQL_LENGTH, 4096},
        {SQLITE_LIMIT_COLUMN, 32},
        {SQLITE_LIMIT_EXPR_DEPTH, 10},
        {SQLITE_LIMIT_COMPOUND_SELECT, 1},
        {SQLITE_LIMIT_VDBE_OP, 1000},
        {SQLITE_LIMIT_FUNCTION_ARG, 4},
        {SQLITE_LIMIT_ATTACHED, 0},
        {SQLITE_LIMIT_TRIGGER_DEPTH, 1},
        {SQLITE_LIMIT_WORKER_THREADS, 0},
    };
    static const int options[][2] = {
        {SQLITE_DBCONFIG_DEFENSIVE, 1},
        {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
        {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0},
        {SQLITE_DBCONFIG_ENABLE_VIEW, 0},
        {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
    };
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
        (void)sqlite3_limit(index->db, limits[i][0], limits[i][1]);
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        if (sqlite3_db_config(index->db, options[i][0], options[i][1], NULL) != SQLITE_OK)
            return read_failed(index, why);
    int r = sqlite3_exec(index->db,
                         "PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY;"
                         "PRAGMA cache_size=" CACHE,
                         NULL, NULL, NULL);
    return r == SQLITE_OK ? 0 : read_failed(index, why);
}

static int compare_schema(struct index *index, sqlite3_stmt *stmt, struct fail *why)
{
    for (size_t i = 0; i < INDEX_FORM_TABLES; i++) {
        int r = step(index, stmt, why);
        if (r <= 0)
            return r < 0 ? r : index_form_damaged(why);
        const unsigned char *sql = sqlite3_column_text(stmt, 0);
        if (!sql || strcmp((const char *)sql, index_form_schema[i]) != 0)
            return index_form_damaged(why);
    }
    int r = step(index, stmt, why);
    return r > 0 ? index_form_damaged(why) : r;
}

static int check_schema(struct index *index, struct fail *why)
{
    sqlite3_stmt *stmt;
    int r = sqlite3_prepare_v2(index->db, "SELECT sql FROM sqlite_master ORDER BY rowid", -1, &stmt,
                               NULL);
    if (r != SQLITE_OK)
        return read_failed(index, why);
    r = compare_schema(index, stmt, why);
    (void)sqlite3_finalize(stmt);
    return r;
}

static int prepare_reader(struct index *index, struct fail *why)
{
    for (int i = 0; i < STATEMENT_COUNT; i++)
        if (sqlite3_prepare_v3(index->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &index->statements[i], NULL) != SQLITE_OK)
            return read_failed(index, why);
    return 0;
}

/* The value of a key, of that type, in a statement at its row. */
static int find_meta(struct index *index, const char *key, int type, sqlite3_stmt *stmt,
                     struct fail *why)
{
    if (sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC) != SQLITE_OK)
        return read_failed(index, why);
    int r = step(index, stmt, why);
    if (r < 0)
        return r;
    return r > 0 && sqlite3_column_type(stmt, 0) == type ? 0 : index_form_damaged(why);
}

static int get_number(struct index *index, const char *key, uint64_t *ret_value, struct fail *why)
{
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_META];
    int r = find_meta(index, key, SQLITE_INTEGER, stmt, why);
    if (r == 0)
        *ret_value = (uint64_t)sqlite3_column_int64(stmt, 0);
    return r;
}

/* Fills in up to `room` bytes, at least `least`. */
static int get_bytes(struct index *index, const char *key, void *data, int least, int room,
                     struct fail *why)
{
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_META];
    int r = find_meta(index, key, SQLITE_BLOB, stmt, why);
    if (r < 0)
        return r;
    const void *value = sqlite3_column_blob(stmt, 0);
    int bytes = sqlite3_column_bytes(stmt, 0);
    if (bytes < least || bytes > room)
        return index_form_damaged(why);
    if (bytes > 0 && !value)
        return -ENOMEM;
    memcpy(data, bytes ? value : "", (size_t)bytes);
    return 0;
}

static int read_about(struct index *index, struct fail *why)
{
    struct index_about *about = &index->about;
    uint64_t version = 0;
    uint64_t taken = 0;
    int r = get_number(index, "version", &version, why);
    if (r == 0 && version != INDEX_VERSION)
        return fail_set(why, ENODATA, "the index is of another version");
    if (r == 0)
        r = get_number(index, "archive_bytes", &about->archive_bytes, why);
    if (r == 0)
        r = get_number(index, "seal", &about->seal, why);
    if (r == 0)
        r = get_number(index, "taken", &taken, why);
    if (r == 0)
        r = get_number(index, "entries", &about->entries, why);
    if (r == 0)
        r = get_bytes(index, "sha256", about->sha256, sizeof(about->sha256), sizeof(about->sha256),
                      why);
    if (r == 0)
        r = get_bytes(index, "consistency", about->consistency, 0, sizeof(about->consistency) - 1,
                      why);
    about->taken_s = (int64_t)taken;
    return r;
}

static int open_database(struct index *index, struct fail *why)
{
    int r = pagefile_database(index->file, &index->db);
    if (r != SQLITE_OK)
        return index->db ? read_failed(index, why) : -ENOMEM;
    r = configure(index, why);
    if (r == 0)
        r = check_schema(index, why);
    if (r == 0)
        r = prepare_reader(index, why);
    return r < 0 ? r : read_about(index, why);
}

int index_open(const char *path, struct index **ret_index, struct fail *why)
{
    struct index *index cleanup_index = calloc(1, sizeof(*index));
    if (!index)
        return -ENOMEM;
    (void)pthread_mutex_init(&index->lock, NULL);
    buf_init(&index->record, INDEX_FORM_RECORD_MAX_BYTES);
    int r = pagefile_open(path, &index->file, why);
    if (r == 0)
        r = open_database(index, why);
    if (r < 0)
        return r == -EBADMSG ? -ENODATA : r;
    *ret_index = take(index);
    return 0;
}

void index_close(struct index *index)
{
    if (!index)
        return;
    for (int i = 0; i < STATEMENT_COUNT; i++)
        (void)sqlite3_finalize(index->statements[i]);
    (void)sqlite3_close(index->db);
    pagefile_close(index->file);
    buf_done(&index->record);
    (void)pthread_mutex_destroy(&index->lock);
    free(index);
}

void index_about(const struct index *index, struct index_about *ret_about)
{
    *ret_about = index->about;
}

int index_form_backup(struct index *index, sqlite3 *to)
{
    scoped_lock(&index->lock);
    sqlite3_backup *backup = sqlite3_backup_init(to, "main", index->db, "main");
    if (!backup)
        return sqlite3_errcode(to);
    (void)sqlite3_backup_step(backup, -1);
    return sqlite3_backup_finish(backup);
}

/* ---- reading ------------------------------------------------------------------- */

/* An entry being read; what its file points to is in the index's record. */
struct row {
    struct index_entry entry;
    char name[NAME_MAX + 1];
    char link_target[INDEX_FORM_LINK_MAX_BYTES + 1];
};

static int take_number(sqlite3_stmt *stmt, int column, uint64_t max, uint64_t *ret)
{
    sqlite3_int64 value = sqlite3_column_int64(stmt, column);
    if (sqlite3_column_type(stmt, column) != SQLITE_INTEGER || value < 0 || (uint64_t)value > max)
        return -EBADMSG;
    *ret = (uint64_t)value;
    return 0;
}

/* A value's bytes; NULL counts as none.  Valid until the statement moves on. */
static int take_bytes(sqlite3_stmt *stmt, int column, size_t max, const char **ret_data,
                      size_t *ret_bytes)
{
    int type = sqlite3_column_type(stmt, column);
    if (type != SQLITE_BLOB && type != SQLITE_NULL)
        return -EBADMSG;
    const char *data = sqlite3_column_blob(stmt, column);
    size_t bytes = (size_t)sqlite3_column_bytes(stmt, column);
    if (bytes > max)
        return -EBADMSG;
    if (bytes > 0 && !data)
        return -ENOMEM;
    *ret_data = bytes ? data : "";
    *ret_bytes = bytes;
    return 0;
}

/* The same as a string, in a buffer with room for max bytes and a NUL. */
static int take_string(sqlite3_stmt *stmt, int column, size_t max, char *string)
{
    const char *data = NULL;
    size_t bytes = 0;
    int r = take_bytes(stmt, column, max, &data, &bytes);
    if (r < 0)
        return r;
    if (memchr(data, '\0', bytes))
        return -EBADMSG;
    memcpy(string, data, bytes);
    string[bytes] = '\0';
    return 0;
}

static int take_place(sqlite3_stmt *stmt, struct row *row)
{
    struct index_entry *entry = &row->entry;
    *entry = (struct index_entry){.file.name = row->name};
    if (take_number(stmt, INDEX_COLUMN_ID, INT64_MAX, &entry->id) < 0 ||
        take_number(stmt, INDEX_COLUMN_PARENT, INT64_MAX, &entry->parent) < 0 ||
        take_number(stmt, INDEX_COLUMN_TARGET, INT64_MAX, &entry->target) < 0)
        return -EBADMSG;
    int r = take_string(stmt, INDEX_COLUMN_NAME, NAME_MAX, row->name);
    if (r < 0)
        return r;
    return index_form_is_placed(entry) ? 0 : -EBADMSG;
}

static int take_stat(sqlite3_stmt *stmt, struct index_entry *entry)
{
    static const struct {
        int column;
        uint64_t max;
    } columns[] = {
        {INDEX_COLUMN_MODE, UINT32_MAX},       {INDEX_COLUMN_NLINK, UINT32_MAX},
        {INDEX_COLUMN_UID, UINT32_MAX},        {INDEX_COLUMN_GID, UINT32_MAX},
        {INDEX_COLUMN_RDEV_MAJOR, UINT32_MAX}, {INDEX_COLUMN_RDEV_MINOR, UINT32_MAX},
        {INDEX_COLUMN_MTIME_NS, 999999999},    {INDEX_COLUMN_SIZE, INT64_MAX},
        {INDEX_COLUMN_OFFSET, INT64_MAX},
    };
    uint64_t values[INDEX_COLUMN_OFFSET + 1] = {0};
    for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
        if (take_number(stmt, columns[i].column, columns[i].max, &values[columns[i].column]) < 0)
            return -EBADMSG;
    if (sqlite3_column_type(stmt, INDEX_COLUMN_MTIME_S) != SQLITE_INTEGER)
        return -EBADMSG;
    entry->offset = values[INDEX_COLUMN_OFFSET];
    entry->file.stat = (struct file_stat){
        .mode = (uint32_t)values[INDEX_COLUMN_MODE],
        .nlink = (uint32_t)values[INDEX_COLUMN_NLINK],
        .uid = (uint32_t)values[INDEX_COLUMN_UID],
        .gid = (uint32_t)values[INDEX_COLUMN_GID],
        .size_bytes = values[INDEX_COLUMN_SIZE],
        .rdev_major = (uint32_t)values[INDEX_COLUMN_RDEV_MAJOR],
        .rdev_minor = (uint32_t)values[INDEX_COLUMN_RDEV_MINOR],
        .mtime = {sqlite3_column_int64(stmt, INDEX_COLUMN_MTIME_S),
                  (uint32_t)values[INDEX_COLUMN_MTIME_NS]},
    };
    return 0;
}

/* The extents, unpacked and malloc'ed. */
static int take_extents(sqlite3_stmt *stmt, struct file *file, struct file_extent **ret_extents)
{
    const char *data = NULL;
    size_t bytes = 0;
    int r = take_bytes(stmt, INDEX_COLUMN_EXTENTS, INDEX_FORM_VALUE_MAX_BYTES, &data, &bytes);
    if (r < 0 || bytes % INDEX_FORM_EXTENT_BYTES)
        return r < 0 ? r : -EBADMSG;
    file->extents = data;
    file->extent_count = bytes / INDEX_FORM_EXTENT_BYTES;
    file->is_sparse = sqlite3_column_type(stmt, INDEX_COLUMN_EXTENTS) == SQLITE_BLOB;
    struct file_extent *extents = calloc(file->extent_count + 1, sizeof(*extents));
    if (!extents)
        return -ENOMEM;
    for (size_t i = 0; i < file->extent_count; i++)
        extents[i] = file_extent_at(file, i);
    *ret_extents = extents;
    return 0;
}

/* Of 512 bytes: as many as the data takes. */
static uint64_t blocks_of(const struct file *file)
{
    uint64_t bytes = file->is_sparse ? 0 : file->stat.size_bytes;
    if (!S_ISREG(file->stat.mode))
        return 0;
    for (size_t i = 0; i < file->extent_count; i++)
        bytes += file_extent_at(file, i).bytes;
    return (bytes + 511) / 512;
}

/* All of a first name but its place: the file, under the name that it has already. */
static int take_file(struct index *index, sqlite3_stmt *stmt, struct row *row)
{
    cleanup_free struct file_extent *extents = NULL;
    struct file *file = &row->entry.file;
    int r = take_stat(stmt, &row->entry);
    if (r == 0)
        r = take_string(stmt, INDEX_COLUMN_LINK_TARGET, INDEX_FORM_LINK_MAX_BYTES,
                        row->link_target);
    if (r == 0)
        r = take_bytes(stmt, INDEX_COLUMN_XATTRS, FILE_MAX_XATTR_BYTES, &file->xattrs,
                       &file->xattr_bytes);
    if (r == 0)
        r = take_extents(stmt, file, &extents);
    if (r < 0)
        return r;
    file->link_target = row->link_target;
    file->stat.ino = row->entry.target;
    r = index_form_pack(&index->record, file, extents);
    if (r < 0)
        return r;
    file->stat.blocks = blocks_of(file);
    return index_form_is_sound(&row->entry) ? 0 : -EBADMSG;
}

/* The file of a second name is that of the first. */
static int take_first(struct index *index, struct row *row, struct fail *why)
{
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_FIRST];
    struct row first = {0};
    if (sqlite3_bind_int64(stmt, 1, (int64_t)row->entry.target) != SQLITE_OK)
        return read_failed(index, why);
    int r = step(index, stmt, why);
    if (r <= 0)
        return r < 0 ? r : index_form_damaged(why);
    r = take_place(stmt, &first);
    if (r == 0 && (first.entry.id != row->entry.target || first.entry.target != first.entry.id))
        r = -EBADMSG;
    if (r == 0)
        r = take_file(index, stmt, row);
    if (r == 0 && S_ISDIR(row->entry.file.stat.mode))
        r = -EBADMSG;
    return r == -EBADMSG ? index_form_damaged(why) : r;
}

static int take_row(struct index *index, sqlite3_stmt *stmt, struct row *row, struct fail *why)
{
    int r = take_place(stmt, row);
    if (r == 0 && row->entry.target != row->entry.id)
        return take_first(index, row, why);
    if (r == 0)
        r = take_file(index, stmt, row);
    return r == -EBADMSG ? index_form_damaged(why) : r;
}

/* The one row of a statement whose parameters are bound. */
static int take_one(struct index *index, sqlite3_stmt *stmt, struct row *row, struct fail *why)
{
    int r = step(index, stmt, why);
    if (r <= 0)
        return r < 0 ? r : fail_set(why, ENOENT, "there is no such entry");
    return take_row(index, stmt, row, why);
}

int index_get(struct index *index, uint64_t id, index_fn *fn, void *data, struct fail *why)
{
    struct row row = {0};
    scoped_lock(&index->lock);
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_GET];
    if (id > INT64_MAX)
        return fail_set(why, ENOENT, "there is no such entry");
    if (sqlite3_bind_int64(stmt, 1, (int64_t)id) != SQLITE_OK)
        return read_failed(index, why);
    int r = take_one(index, stmt, &row, why);
    if (r == 0 && row.entry.id != id)
        r = index_form_damaged(why);
    return r < 0 ? r : fn(data, &row.entry);
}

int index_find(struct index *index, uint64_t parent, const char *name, index_fn *fn, void *data,
               struct fail *why)
{
    struct row row = {0};
    scoped_lock(&index->lock);
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_FIND];
    if (parent > INT64_MAX || !index_form_is_name(name))
        return fail_set(why, ENOENT, "there is no such entry");
    if (sqlite3_bind_int64(stmt, 1, (int64_t)parent) != SQLITE_OK ||
        index_form_bind(stmt, 1, name, strlen(name)) != SQLITE_OK)
        return read_failed(index, why);
    int r = take_one(index, stmt, &row, why);
    if (r == 0 && (row.entry.parent != parent || strcmp(row.name, name) != 0))
        r = index_form_damaged(why);
    return r < 0 ? r : fn(data, &row.entry);
}

int index_list(struct index *index, uint64_t parent, const char *after, unsigned max, index_fn *fn,
               void *data, struct fail *why)
{
    struct row row = {0};
    char last[NAME_MAX + 1] = "";
    int count = 0;
    int r = 0;
    scoped_lock(&index->lock);
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_LIST];
    if (!after)
        after = ""; /* the root's own name is not behind that */
    if (max > INT_MAX)
        max = INT_MAX;
    if (parent > INT64_MAX)
        return 0;
    if (sqlite3_bind_int64(stmt, 1, (int64_t)parent) != SQLITE_OK ||
        index_form_bind(stmt, 1, after, strlen(after)) != SQLITE_OK ||
        sqlite3_bind_int64(stmt, 3, max) != SQLITE_OK)
        return read_failed(index, why);
    while ((r = step(index, stmt, why)) > 0) {
        r = take_row(index, stmt, &row, why);
        if (r == 0 && (row.entry.parent != parent || strcmp(row.name, after) <= 0))
            r = index_form_damaged(why);
        if (r == 0)
            r = fn(data, &row.entry);
        if (r < 0)
            return r;
        memcpy(last, row.name, sizeof(last));
        after = last;
        count++;
    }
    return r < 0 ? r : count;
}

int index_frames(struct index *index,
                 int (*fn)(void *data, uint64_t number, const uint8_t key[INDEX_KEY_BYTES]),
                 void *data, struct fail *why)
{
    uint64_t next = 0;
    int r;
    scoped_lock(&index->lock);
    sqlite3_stmt *stmt cleanup_statement = index->statements[STATEMENT_FRAMES];
    while ((r = step(index, stmt, why)) > 0) {
        uint64_t number = 0;
        const char *key = NULL;
        size_t bytes = 0;
        r = take_number(stmt, 0, INT64_MAX, &number);
        if (r == 0)
            r = take_bytes(stmt, 1, INDEX_KEY_BYTES, &key, &bytes);
        if (r < 0 || number < next || bytes != INDEX_KEY_BYTES)
            return r == -ENOMEM ? r : index_form_damaged(why);
        r = fn(data, number, (const uint8_t *)key);
        if (r < 0)
            return r;
        next = number + 1;
    }
    return r;
}
