// Run by mongosh: makes the replica set of one and the account that Syncline reads with.
// Running it again changes nothing but the account's password, which follows the environment.

const { MONGO_ROOT_PASSWORD, MONGO_PASSWORD, MONGO_DATABASE } = process.env;
const uri = `mongodb://root:${encodeURIComponent(MONGO_ROOT_PASSWORD)}@mongodb:27017/admin?directConnection=true`;
const deadline = Date.now() + 120_000;

function within(what, attempt) {
  for (;;) {
    try {
      const done = attempt();
      if (done) return done;
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
    if (Date.now() > deadline) throw new Error(`timed out: ${what}`);
    sleep(1000);
  }
}

const admin = within("connecting", () => connect(uri));

within("making the replica set", () => {
  try {
    return admin.adminCommand({ replSetGetStatus: 1 }).ok;
  } catch (error) {
    if (error.codeName !== "NotYetInitialized") throw error;
  }
  // Its one member is named as the other containers see it, because clients follow that name.
  const members = [{ _id: 0, host: "mongodb:27017" }];
  return admin.adminCommand({ replSetInitiate: { _id: "rs0", members } }).ok;
});
within("becoming primary", () => admin.hello().isWritablePrimary);

// Reading the database is all that Syncline needs, its change stream included.
const account = { pwd: MONGO_PASSWORD, roles: [{ role: "read", db: MONGO_DATABASE }] };
if (admin.getUser("syncline")) admin.updateUser("syncline", account);
else admin.createUser({ user: "syncline", ...account });
print("the replica set and the account are there");
