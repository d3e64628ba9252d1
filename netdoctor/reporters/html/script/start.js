startTheme();
startFigures();
startEvidence();
startTables();
startCopying();
